"""Imports what a run imports, for programs whose forks are runs: torch and DeepSpeed cost seconds at each start."""

import gc
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as in tests/conftest.py, for what is started by hand
os.environ["DS_ACCELERATOR"] = "cpu"  # deepspeed is imported here, before any run chooses its device
os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the other threads

import launch  # noqa: F401 - which sets what torch reads when it is loaded
from harness import logs

logs.quiet_libraries()

import deepspeed.runtime.zero.muon.original_muon  # noqa: E402, F401 - compiled functions: they import half of torch
import scipy.stats  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401
import transformers.models.bert.modeling_bert  # noqa: E402, F401
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402, F401

from launch import train  # noqa: E402, F401
from launch.run import failures, result, settings, train_and_score  # noqa: E402, F401

assert len(os.listdir("/proc/self/task")) == 1
gc.freeze()  # else the first collection in a fork copies every page that holds an object
