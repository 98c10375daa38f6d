"""The parts of launch/score.py, launch/report.py and launch/predict.py."""
