"""Names that people bring from other programs: what the same thing is called here, or why it is not here."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import nearest

MOST_OFFERED = 3
SAME: dict[str, tuple[str, ...]] = {  # name here, or name and value -> names elsewhere
    "task": ("dataset", "dataset_name", "benchmark", "corpus"),
    "data_dir": ("data", "dataset", "data_path", "dataset_dir", "data_folder", "gold", "input_dir", "train_file"),
    "model": ("models", "encoders"),  # of launch/submit.py, as the four below
    "suite": ("suites",),
    "gpus_per_node": ("gpus", "gpu", "num_gpus", "n_gpu", "ngpus", "devices", "num_devices", "nproc_per_node"),
    "nodes": ("num_nodes", "nnodes"),
    "print": ("dry_run", "dryrun"),
    "model_name_or_path": ("model", "models", "model_path", "model_dir", "encoder", "bert_model", "pretrained_model",
                           "checkpoint", "init_checkpoint"),
    "config_name": ("config_path", "bert_config_file"),
    "tokenizer_name": ("tokenizer", "tokenizer_path", "vocab_file"),
    "do_lower_case": ("lower_case", "lowercase", "uncased", "cased"),
    "max_seq_length": ("max_length", "max_len", "max_seq_len", "max_sequence_length", "seq_len", "seq_length",
                       "sequence_length"),
    "do_predict": ("do_test", "test", "predict"),
    "do_eval": ("evaluate", "eval"),
    "do_train": ("train",),
    "lora_rank": ("lora", "use_lora", "lora_r", "peft", "use_peft", "adapter", "adapters", "rank"),
    "lora_targets": ("target_modules", "lora_target_modules"),
    "lora_dora": ("dora", "use_dora"),
    "merge_lora": ("merge_and_unload", "merge_adapter", "merge_adapters"),
    "per_gpu_train_batch_size": ("batch_size", "batch", "bs", "train_batch_size", "per_device_train_batch_size",
                                 "micro_batch_size"),
    "per_gpu_eval_batch_size": ("eval_batch_size", "per_device_eval_batch_size", "test_batch_size",
                                "predict_batch_size"),
    "gradient_accumulation_steps": ("grad_accum", "accumulation", "accumulation_steps", "gradient_accumulation",
                                    "accumulate_grad_batches"),
    "global_batch_size": ("total_batch_size", "effective_batch_size"),
    "learning_rate": ("lr", "max_lr", "peak_lr"),
    "num_train_epochs": ("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs", "train_epochs"),
    "max_steps": ("steps", "num_steps", "train_steps", "num_train_steps"),
    "train_fraction": ("fraction", "data_fraction", "train_share", "subset", "max_train_samples", "few_shot"),
    "stride": ("doc_stride", "window", "windows", "overlap", "sliding_window"),
    "freeze_layers": ("freeze", "freeze_encoder", "frozen_layers", "linear_probing", "freeze_base"),
    "reinit_top_layers": ("reinit", "reinit_layers", "reinitialize_layers"),
    "warmup_steps": ("warmup", "num_warmup_steps"),
    "warmup_ratio": ("warmup_proportion", "warmup_fraction"),
    "lr_scheduler": ("lr_scheduler_type", "lr_schedule", "scheduler"),
    "layerwise_lr_decay": ("llrd", "layer_lr_decay", "lr_layer_decay", "layer_decay", "layerwise_decay"),
    "adam_beta1": ("beta1", "adam_b1"),
    "adam_beta2": ("beta2", "adam_b2"),
    "label_smoothing": ("label_smoothing_factor", "smoothing"),
    "class_weights": ("class_weight", "loss_weights", "pos_weight", "weighted_loss"),
    "early_stopping_patience": ("early_stopping", "patience", "early_stop"),
    "weight_decay": ("wd",),
    "adam_epsilon": ("adam_eps", "eps", "epsilon"),
    "max_grad_norm": ("grad_clip", "clip", "clip_grad", "gradient_clip_val", "gradient_clipping"),
    "seed": ("random_seed", "random_state"),
    "select best_dev": ("load_best_model_at_end",),
    "eval_every_epoch": ("evaluation_strategy", "eval_strategy", "eval_steps"),
    "precision bf16": ("bf16", "bfloat16"),
    "precision fp16": ("amp", "half", "mixed_precision", "float16"),
    "precision fp32": ("fp32", "float32", "full_precision"),
    "precision": ("dtype", "torch_dtype"),
    "packing": ("group_by_length", "padding", "pad_to_max_length", "unpad", "dynamic_padding"),
    "compile": ("torch_compile",),
    "gradient_checkpointing": ("grad_checkpointing", "activation_checkpointing", "checkpoint_activations"),
    "attention": ("bidirectional", "causal", "is_causal", "attn", "attention_type"),
    "ds_config": ("deepspeed", "deepspeed_config", "zero", "zero_stage", "fsdp"),
    "no_cuda": ("cpu", "use_cpu", "device", "no_gpu"),
    "out": ("output", "output_dir", "out_dir", "outdir", "save_dir"),  # of launch/report.py
    "output_dir": ("output", "out", "out_dir", "outdir", "output_path", "save_dir", "results_dir", "run_dir"),
    "overwrite_output_dir": ("overwrite", "force"),
    "logging_steps": ("log_steps", "log_every", "log_interval", "logging_strategy"),
    "save_steps": ("save_every", "save_interval", "save_strategy", "checkpoint_every"),
    "keep_checkpoints": ("save_total_limit", "keep_last"),
    "feature_cache": ("cache", "token_cache"),
    "wandb_mode": ("wandb", "report_to", "use_wandb", "log_with"),
    "wandb_mode disabled": ("no_wandb", "disable_wandb"),
    "wandb_project": ("project", "project_name"),
    "wandb_entity": ("entity", "team"),
    "wandb_group": ("group",),
    "wandb_name": ("run_name", "experiment_name", "exp_name"),
    "wandb_tags": ("tags",),
}  # fmt: skip
MISSING: dict[str, tuple[str, ...]] = {  # what to do instead -> names of what is not here
    "the optimizer is AdamW; there is no other": ("optim", "optimizer"),
    "not needed; the same command goes on from its last checkpoint": (
        "resume_from_checkpoint", "resume", "auto_resume", "continue"),
    "not needed; the data is tokenised once, before training": (
        "num_workers", "workers", "dataloader_num_workers", "preprocessing_num_workers"),
    "the launcher starts a process a device: deepspeed --num_gpus N launch/train.py ...": (
        "num_gpus", "gpus", "gpu", "n_gpu", "ngpus", "gpu_ids", "devices", "num_devices", "nproc_per_node",
        "num_processes", "world_size"),
    "a flag of launch/submit.py": (
        "suite", "suites", "tasks", "seeds", "num_seeds", "sweep", "profile", "cluster", "nodes", "num_nodes", "nnodes",
        "gpus_per_node", "tasks_per_node", "jobs", "runs_per_gpu", "print", "dry_run"),
    "a fact of the cluster; it stands in the file of --profile, see slurm/cluster.example.toml": (
        "partition", "account", "qos", "constraint", "time", "mem", "cpus_per_task", "gres", "container"),
    "not available; the head's dropout is the one of the model's config.json (--config_name names another)": (
        "dropout", "hidden_dropout", "hidden_dropout_prob", "classifier_dropout"),
    "not available; model/ in the run folder is ready for `hf upload`": ("push_to_hub", "hub_model_id"),
    "not available; set HF_HUB_OFFLINE=1": ("local_files_only", "offline"),
}  # fmt: skip


def hint(name: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?`, or what to do instead, or nothing. `known`: the names that can stand where `name` stood."""
    plain = name.lower().replace("-", "_")
    if plain in known:
        return f"; did you mean {prefix}{plain}?"
    same = [text for text, others in SAME.items() if plain in others and text.split()[0] in known]
    instead = next((text for text, others in MISSING.items() if plain in others), None)
    if instead is not None and not same:
        return f"; {instead}"
    same = same or [full for full in known if full.startswith(plain)]  # argparse would have completed it
    if 1 <= len(same) <= MOST_OFFERED:
        return f"; did you mean {' or '.join(prefix + text for text in same)}?"
    return nearest(plain, known, prefix)
