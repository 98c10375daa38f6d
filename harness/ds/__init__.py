"""All that knows DeepSpeed: its engine, its JSON, the state that it keeps of an optimizer, and fixes of its faults."""
