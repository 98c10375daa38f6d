"""Tiny encoders with random weights, in folders as the hub has them."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.model_folder import About

KINDS = ("bert", "roberta", "electra", "deberta-v2", "distilbert", "modernbert")
WITH_POOLER = ("bert", "roberta")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")  # causal, without a [SEP]
NO_PAD = ("llama", "mistral")  # of which the tokenizer has no pad token
T5 = ("t5", "t5gemma")  # whole encoder-decoders
WORDS = ("the", "patient", "has", "no", "fever", "drug", "gene", "aspirin", "of", "and", "with", "in", "is", "a")


def about(labels: Sequence[str], family: str) -> About:
    """What a run says of its model."""
    sample = {"own_task": None, "precision": "fp32", "data": "sample", "recipe": None, "train_splits": ("train",)}
    return About(task="x", family=family, labels=tuple(labels), max_seq_length=32, encoder="tiny", seed=1, **sample)


def tiny_encoder(
    folder: Path, kind: str = "bert", *, trained_pooler: bool = True, dropout: float = 0.0, **more: Any
) -> Path:
    """Write config.json, model.safetensors (float32) and a fast tokenizer; returns the folder. The same each time.

    `more`: for the configuration.
    """
    from transformers import AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_for(kind)
    settings = settings_for(kind, len(tokenizer), dropout, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        encoder = AutoModel.from_config(settings).float()
        if kind in WITH_POOLER and trained_pooler:
            torch.nn.init.normal_(encoder.pooler.dense.bias, std=0.1)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_masked_lm(folder: Path, kind: str = "modernbert", **more: Any) -> Path:
    """As `tiny_encoder`, of the whole masked language model, its prediction head as if it were trained."""
    from transformers import AutoModelForMaskedLM

    tokenizer_for(kind).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        whole = AutoModelForMaskedLM.from_config(settings_for(kind, len(tokenizer_for(kind)), 0.0, **more)).float()
        for name, parameter in whole.named_parameters():
            if not name.startswith(f"{whole.base_model_prefix}."):
                torch.nn.init.normal_(parameter, 0.1, 0.5)
    whole.save_pretrained(folder)
    return folder


def settings_for(kind: str, vocabulary: int, dropout: float, **given: Any) -> Any:
    """The smallest configuration of an architecture: 2 layers, width 32, 2 heads; `given` wins."""
    from transformers import AutoConfig

    if kind in DECODERS or kind in T5:
        return AutoConfig.for_model(kind, **_decoder_settings(kind, vocabulary, dropout) | given)
    common = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "dropout": dropout}
        sizes |= {"attention_dropout": dropout, "seq_classif_dropout": dropout, "max_position_embeddings": 160}
        return AutoConfig.for_model(kind, **common | sizes | {"initializer_range": 0.1} | given)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    common |= {"max_position_embeddings": 160, "initializer_range": 0.1}
    if kind == "modernbert":
        names = ("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout")
        special = {"cls_token_id": 2, "sep_token_id": 3}
        return AutoConfig.for_model(kind, **common | sizes | special | dict.fromkeys(names, dropout) | given)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    more: dict[str, Any] = {"type_vocab_size": 1 if kind == "roberta" else 2, **dict.fromkeys(names, dropout)}
    if kind == "electra":
        more |= {"embedding_size": 16, "summary_last_dropout": dropout}
    if kind == "deberta-v2":  # as the published ones: relative positions, no segments
        more |= {
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": 32,
            "pooler_dropout": dropout,
        }
    return AutoConfig.for_model(kind, **common | sizes | more | given)


def _decoder_settings(kind: str, vocabulary: int, dropout: float) -> dict[str, Any]:
    """Four query heads on two key and value heads; windows of 8 tokens where the architecture has local attention."""
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
        sizes |= {"classifier_dropout": dropout}
        return {"vocab_size": vocabulary, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": dropout, **sizes}
    gemma = "gemma" in kind
    values = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 8}
    values |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocabulary}
    values |= {"max_position_embeddings": 160, "initializer_range": 0.1, "attention_dropout": dropout}
    values |= {"bos_token_id": 2, "eos_token_id": 1} if gemma else {"bos_token_id": 1, "eos_token_id": 2}
    values |= {"pad_token_id": None if kind in NO_PAD else 0, "classifier_dropout": dropout}
    if kind in ("mistral", "gemma2", "gemma3_text", "t5gemma"):
        values |= {"sliding_window": 8}
    if kind in ("gemma2", "gemma3_text", "t5gemma"):
        values |= {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
    if kind == "t5gemma":
        return {
            "encoder": values,
            "decoder": dict(values),
            "vocab_size": vocabulary,
            "dropout_rate": dropout,
            "classifier_dropout": dropout,
        }
    return values


def tokenizer_for(kind: str) -> Any:
    """A fast tokenizer that knows every ASCII text, of the kind that the architecture's published ones are."""
    if kind in DECODERS or kind in T5:
        return _unigram_with_end() if kind == "t5" else _of_decoder(kind)
    if kind in ("roberta", "modernbert"):
        return _byte_level(kind)
    if kind == "deberta-v2":
        return _unigram()
    return _word_piece(kind)


def _word_piece(kind: str) -> Any:
    from transformers import BertTokenizer, DistilBertTokenizer, ElectraTokenizer

    letters = string.ascii_lowercase + string.digits
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *string.punctuation]
    pieces += [word for word in WORDS if len(word) > 1]
    classes = {"bert": BertTokenizer, "electra": ElectraTokenizer, "distilbert": DistilBertTokenizer}
    return classes[kind](vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)


def _byte_level(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaTokenizer

    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"] if kind == "roberta" else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    if kind == "roberta":
        model = json.loads(backend.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    cls, sep = ("[CLS]", backend.token_to_id("[CLS]")), ("[SEP]", backend.token_to_id("[SEP]"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[cls, sep]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _unigram() -> Any:
    from transformers import DebertaV2Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = [("[PAD]", 0.0), ("[UNK]", -20.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0), ("\u2581", -4.0)]
    pieces += [(letter, -6.0) for letter in letters] + [(f"\u2581{word}", -5.0) for word in WORDS]
    return DebertaV2Tokenizer(vocab=pieces, unk_id=1)


def _of_decoder(kind: str) -> Any:
    """Byte-level BPE of Llama 3 (adds its bos) and Qwen (adds nothing), or SentencePiece's BPE of Mistral and Gemma."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    if kind == "mistral" or "gemma" in kind:
        special = ["<pad>", "<eos>", "<bos>", "<unk>"] if "gemma" in kind else ["<unk>", "<s>", "</s>"]
        letters = ["\u2581", *string.ascii_letters, *string.digits, *string.punctuation]
        vocabulary = {piece: number for number, piece in enumerate([*special, *letters])}
        vocabulary |= {"\u2581the": len(vocabulary), "\u2581t": len(vocabulary) + 1, "he": len(vocabulary) + 2}
        merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he")]
        make: Any = GemmaTokenizer if "gemma" in kind else LlamaTokenizer
        more = {"mask_token": "<unk>"} if "gemma" in kind else {}
        tokenizer = make(vocab=vocabulary, merges=merges, **more)
        _begin_with(tokenizer.backend_tokenizer, tokenizer.bos_token)
        return tokenizer
    special = ["<|end_of_text|>"] if kind.startswith("qwen") else ["<|x|>", "<|begin_of_text|>", "<|end_of_text|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    if kind.startswith("qwen"):
        model = json.loads(backend.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        end = special[0]
        return Qwen2Tokenizer(vocab=model["vocab"], merges=merges, eos_token=end, pad_token=end, unk_token=end)
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    bos, eos = special[1:]
    _begin_with(backend, bos)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, model_input_names=names)


def _begin_with(backend: Any, bos: str) -> None:
    """As the published tokenizer.json have it: the token before each of a pair's texts, nothing behind them."""
    from tokenizers import processors

    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, backend.token_to_id(bos))]
    )


def _unigram_with_end() -> Any:
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -4.0)]
    pieces += [(letter, -6.0) for letter in letters] + [(f"\u2581{word}", -5.0) for word in WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def word_piece_files(folder: Path, *, cased: bool = True) -> int:
    """vocab.txt alone, as old checkpoints have it; answers the number of its pieces, that of a tiny encoder's."""
    letters = string.ascii_lowercase + string.digits
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [*(word for word in WORDS if len(word) > 1), "anemia"]
    if cased:
        pieces += [word.capitalize() for word in WORDS if len(word) > 1]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return len(pieces)


def byte_level_files(folder: Path) -> int:
    """vocab.json and merges.txt alone, trained with the blank as a part of words; answers the number of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join((*WORDS, "anemia", "Fever", "Aspirin"))] * 4, trainer)
    content = json.loads(backend.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [" ".join(merge) for merge in content["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(content["vocab"])


def sentencepiece_model(folder: Path) -> Path:
    """A SentencePiece model of 120 pieces, cased."""
    import sentencepiece

    text = folder / "text.txt"
    lines = [" ".join(WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))]
    text.write_text("\n".join([*lines, *(line.title() for line in lines), string.printable[:94], "anemia"]) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spm"),
        vocab_size=150,
        character_coverage=1.0,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    return folder / "spm.model"
