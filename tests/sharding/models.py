"""A generative model small enough for two CPU processes: the packaged encoder, and a decoder from the folder DECODER. A plug-in."""

import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from methods.gmm.models import VLMS, make_prompt
from methods.gmm.vlm import VLM
from methods.learning.sharding import in_shares
from methods.networks.backbones import frozen_encoder


def small(options):
    encoder, folder = frozen_encoder("packaged"), os.environ["DECODER"]
    with in_shares():
        decoder = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = make_prompt(AutoTokenizer.from_pretrained(folder), options, before="<|im_start|>user\n", after=" {}")
    return encoder, VLM(decoder, prompt, features=encoder.features, weights=encoder.weights)


def whole(vlm: VLM, state) -> VLM:
    """-> the same model in one piece, on this process alone"""
    decoder = AutoModelForCausalLM.from_pretrained(os.environ["DECODER"], dtype=torch.float32)
    copy = VLM(decoder, vlm.prompt, vlm.projector.in_features, {})
    copy.load_state_dict(state, strict=False)
    return copy


VLMS["small"] = small
