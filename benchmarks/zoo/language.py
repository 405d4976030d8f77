"""Transformers of the zoo, built from configurations: nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from entry import Entry, Inputs, Named, noise, padding_mask, tokens
from torch import Tensor, nn

ENCODER = {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 512, "max_position_embeddings": 128}  # fmt: skip
DECODER = {**ENCODER, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}}
IMAGE = {"pixel_values": {0: "batch"}}


def text(batch: int, length: int) -> Inputs:
    return {"input_ids": tokens(batch, length), "attention_mask": padding_mask(batch, length)}


def typed_text(batch: int, length: int) -> Inputs:
    types = torch.zeros(batch, length, dtype=torch.int64)
    types[:, length // 2 :] = 1
    return {**text(batch, length), "token_type_ids": types}


def pixels(batch: int, side: int) -> Inputs:
    return {"pixel_values": noise(batch, 3, side, side)}


def make(name: str, config: dict[str, Any], attention: str = "eager") -> nn.Module:
    """The model class `name` of transformers at a configuration of the class's own kind."""
    cls = getattr(transformers, name)
    settings = cls.config_class(**config)
    settings._attn_implementation = attention
    settings._experts_implementation = "eager"
    return cls(settings)


def named(
    name: str, config: dict[str, Any], inputs: tuple[str, ...], outputs: tuple[str, ...], **fixed: Any
) -> Callable[[], nn.Module]:
    """A builder of a model called by names; `attention` chooses transformers' implementation."""
    attention = fixed.pop("attention", "eager")
    return lambda: Named(make(name, config, attention), inputs, outputs, **fixed)


class Cached(nn.Module):
    """A decoder that takes and gives the keys and values of the past."""

    def __init__(self, model: nn.Module, layers: int):
        super().__init__()
        self.model = model
        self.layers = layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = transformers.DynamicCache()
        for layer in range(self.layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
        )
        present = [each for layer in cache.layers for each in (layer.keys, layer.values)]
        return (result.logits, *present)


def cached_inputs(heads: int, width: int, layers: int) -> Callable[[int, int], Inputs]:
    def inputs(batch: int, length: int) -> Inputs:
        made = {"input_ids": tokens(batch, 3), "attention_mask": torch.ones(batch, length + 3, dtype=torch.int64)}
        if batch > 1:
            made["attention_mask"][1, :4] = 0
        for layer in range(layers):
            made[f"past_key_{layer}"] = noise(batch, heads, length, width) * 0.5
            made[f"past_value_{layer}"] = noise(batch, heads, length, width + 1)[..., :width]
        return made

    return inputs


def cached(name: str, cls: str, config: dict[str, Any], heads: int, width: int, layers: int = 2) -> Entry:
    past = {f"past_{part}_{n}": {0: "batch", 2: "past"} for n in range(layers) for part in ("key", "value")}
    axes = {"input_ids": {0: "batch"}, "attention_mask": {0: "batch", 1: "total"}, **past}
    outputs = ("logits", *(f"present_{part}_{n}" for n in range(layers) for part in ("key", "value")))
    return Entry(
        name,
        lambda: Cached(make(cls, {**config, "use_cache": True}), layers),
        cached_inputs(heads, width, layers),
        outputs,
        axes,
        (16, 24),
    )


def encoder(name: str, cls: str, config: dict[str, Any], output: str = "last_hidden_state", **fixed: Any) -> Entry:
    build = named(cls, config, ("input_ids", "attention_mask"), (output,), **fixed)
    return Entry(name, build, text, (output,), TEXT)


def decoder(name: str, cls: str, config: dict[str, Any], **fixed: Any) -> Entry:
    return encoder(name, cls, config, "logits", use_cache=False, **fixed)


def vision(name: str, cls: str, config: dict[str, Any], output: str, side: int = 64, **fixed: Any) -> Entry:
    build = named(cls, config, ("pixel_values",), (output,), **fixed)
    return Entry(name, build, pixels, (output,), IMAGE, (side, side), resize=False)


GPT2 = {"vocab_size": 1000, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 128}
T5 = {"vocab_size": 1000, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip
VIT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
       "image_size": 64, "patch_size": 8}  # fmt: skip
WHISPER = {"vocab_size": 1000, "num_mel_bins": 40, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2,
           "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256,
           "decoder_ffn_dim": 256, "max_source_positions": 50, "max_target_positions": 64, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
CLIP_TEXT = {**ENCODER, "max_position_embeddings": 77, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CLIP = {"text_config": CLIP_TEXT, "vision_config": VIT, "projection_dim": 64}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
DEBERTA = {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 32,
           "share_att_key": True, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0}  # fmt: skip
WAV2VEC = {"vocab_size": 32, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 256, "conv_dim": [32, 32, 32], "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2],
           "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
           "num_conv_pos_embedding_groups": 4}  # fmt: skip
SEGFORMER = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 2], "hidden_sizes": [32, 64],
             "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [4, 4],
             "decoder_hidden_size": 64, "num_labels": 8}  # fmt: skip


def whisper_decoder(batch: int, length: int) -> Inputs:
    return {"decoder_input_ids": tokens(batch, length // 2), "encoder_hidden_states": noise(batch, 50, 128)}


class WhisperDecoder(nn.Module):
    """Whisper's decoder over given encoder states, with its tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make("WhisperForConditionalGeneration", WHISPER)

    def forward(self, decoder_input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        hidden = self.model.model.decoder(
            input_ids=decoder_input_ids,
            attention_mask=torch.ones_like(decoder_input_ids),
            encoder_hidden_states=encoder_hidden_states,
            use_cache=False,
        ).last_hidden_state
        return self.model.proj_out(hidden)


def seq2seq(batch: int, length: int) -> Inputs:
    return {**text(batch, length), "decoder_input_ids": tokens(batch, length // 2)}


def detr() -> nn.Module:
    """DETR over a small ResNet of transformers' own."""
    backbone = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], out_features=["stage2"])
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=10, num_labels=5,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return Named(transformers.DetrForObjectDetection(config), ("pixel_values",), ("logits", "pred_boxes"))


class ClipScores(nn.Module):
    """CLIP's scores of images against texts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make("CLIPModel", CLIP)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Tensor, ...]:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        return result.logits_per_image, result.text_embeds, result.image_embeds


def clip_inputs(batch: int, length: int) -> Inputs:
    made = text(batch, length)
    made["input_ids"][:, -1] = 2
    return {**made, "pixel_values": noise(batch, 3, 64, 64)}


def entries() -> list[Entry]:
    """The transformers, most common first."""
    ids = ("input_ids", "attention_mask")
    typed = (*ids, "token_type_ids")
    bert = ("last_hidden_state", "pooler_output")
    types = {**TEXT, "token_type_ids": TEXT["input_ids"]}
    speech = {"input_values": {0: "batch", 1: "samples"}}
    generation = {**TEXT, "decoder_input_ids": {0: "batch", 1: "target"}}
    states = {"decoder_input_ids": {0: "batch", 1: "target"}, "encoder_hidden_states": {0: "batch"}}
    distil = {"vocab_size": 1000, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512,
              "max_position_embeddings": 128}  # fmt: skip
    moe = {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 128}
    return [
        Entry("bert", named("BertModel", ENCODER, typed, bert), typed_text, bert, types),
        decoder("gpt2", "GPT2LMHeadModel", GPT2),
        decoder("llama", "LlamaForCausalLM", DECODER),
        vision("vit", "ViTForImageClassification", VIT, "logits"),
        encoder("bert-sdpa", "BertModel", ENCODER, attention="sdpa"),
        decoder("llama-sdpa", "LlamaForCausalLM", DECODER, attention="sdpa"),
        encoder("t5-encoder", "T5EncoderModel", T5),
        Entry(
            "t5", named("T5ForConditionalGeneration", T5, (*ids, "decoder_input_ids"), ("logits",), use_cache=False),
            seq2seq, ("logits",), generation,
        ),
        cached("gpt2-past", "GPT2LMHeadModel", GPT2, 4, 32),
        cached("llama-past", "LlamaForCausalLM", DECODER, 2, 32),
        Entry(
            "whisper-encoder", lambda: Named(make("WhisperModel", WHISPER).get_encoder(), ("input_features",),
                                             ("last_hidden_state",)),
            lambda batch, size: {"input_features": noise(batch, 40, 100)}, ("last_hidden_state",),
            {"input_features": {0: "batch"}}, resize=False,
        ),
        Entry("whisper-decoder", WhisperDecoder, whisper_decoder, ("logits",), states),
        encoder("distilbert", "DistilBertModel", distil),
        encoder("roberta", "RobertaForSequenceClassification",
                {**ENCODER, "num_labels": 3, "pad_token_id": 1, "max_position_embeddings": 130}, "logits"),
        encoder("electra", "ElectraForSequenceClassification",
                {**ENCODER, "embedding_size": 64, "num_labels": 3}, "logits"),
        encoder("minilm", "BertModel", {**ENCODER, "num_hidden_layers": 4, "hidden_size": 96}),
        encoder("albert", "AlbertModel", {**ENCODER, "embedding_size": 64}),
        encoder("deberta", "DebertaV2Model", DEBERTA),
        Entry("clip", ClipScores, clip_inputs, ("scores", "text_embeds", "image_embeds"),
              {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"},
               "pixel_values": {0: "images"}}, (16, 24)),
        vision("swin", "SwinForImageClassification", SWIN, "logits"),
        vision("convnext", "ConvNextForImageClassification",
               {"hidden_sizes": [32, 64], "depths": [2, 2], "num_stages": 2}, "logits"),
        vision("deit", "DeiTForImageClassification", VIT, "logits", attention="sdpa"),
        decoder("gemma", "GemmaForCausalLM", {**DECODER, "head_dim": 32}),
        decoder("gemma2", "Gemma2ForCausalLM", {**DECODER, "head_dim": 32, "sliding_window": 16}),
        decoder("qwen2", "Qwen2ForCausalLM", DECODER),
        decoder("qwen3", "Qwen3ForCausalLM", {**DECODER, "head_dim": 32}),
        decoder("mistral", "MistralForCausalLM", {**DECODER, "sliding_window": 16}),
        decoder("phi", "PhiForCausalLM", {**DECODER, "num_key_value_heads": 4}),
        decoder("opt", "OPTForCausalLM", {"vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 2,
                                          "num_attention_heads": 4, "ffn_dim": 512, "word_embed_proj_dim": 128,
                                          "max_position_embeddings": 128, "pad_token_id": 1}),
        decoder("bloom", "BloomForCausalLM", {"vocab_size": 1000, "hidden_size": 128, "n_layer": 2, "n_head": 4}),
        decoder("gpt-neox", "GPTNeoXForCausalLM", ENCODER),
        decoder("mixtral", "MixtralForCausalLM", moe),
        vision("segformer", "SegformerForSemanticSegmentation", SEGFORMER, "logits"),
        Entry("detr", detr, pixels, ("logits", "boxes"), IMAGE, (64, 64), resize=False),
        Entry("wav2vec2", named("Wav2Vec2ForCTC", WAV2VEC, ("input_values",), ("logits",)),
              lambda batch, size: {"input_values": noise(batch, 50 * size)}, ("logits",), speech),
        vision("mobilevit", "MobileViTForImageClassification",
               {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 128],
                "num_attention_heads": 4}, "logits"),
        vision("beit", "BeitForImageClassification",
               {**VIT, "use_relative_position_bias": True}, "logits"),
        vision("dinov2", "Dinov2Model", {**VIT, "use_swiglu_ffn": True}, "last_hidden_state"),
        encoder("mpnet", "MPNetModel", {**ENCODER, "pad_token_id": 1, "max_position_embeddings": 130}),
        encoder("modernbert", "ModernBertModel",
                {**ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                 "sep_token_id": 2, "local_attention": 16, "global_attn_every_n_layers": 2}),
    ]  # fmt: skip
