"""The library: what a run is made of. It knows no task by name and imports neither `launch` nor `tasks`."""
