"""LwM: Learning without Memorizing (Dhar et al., CVPR 2019, arXiv 1811.08051).

LwF-MC, and an attention distillation: where the old network looked for an old class, the new one shall look, too. No
exemplars. Shapes: B batch, C classes seen, O old classes, K channels, H and W size of the last feature map, l = H * W.
"""

import torch
from accelerate import Accelerator
from torch import Tensor

from data.errors import InputError, one_of
from data.stream import Batch
from methods import config
from methods.lwf import LwF, distillation_loss
from methods.networks.classifier import Classifier

TOP_CLASS = ("student", "teacher")
EPS = 1e-8  # keeps the normalised map of an all-zero map at zero


def attention(scores: Tensor, maps: Tensor, create_graph: bool) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017), vectorised. scores: [B], one class's logit a row, made from maps [B, K, H, W] -> [B, l]

    maps: float32 also in mixed precision, where EPS would vanish. With `create_graph` the gradient flows on through the
    channel weights, as through the maps.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), maps, create_graph=create_graph)
    alpha = gradient.mean((2, 3), keepdim=True)  # [B, K, 1, 1]
    return (alpha * maps).sum(1).relu().flatten(1)


def attention_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """L_AD: the L1 distance of the two maps at unit L2 length, mean over rows. [B, l], [B, l] -> scalar in 0..2 sqrt(l)"""
    return (unit(teacher) - unit(student)).abs().sum(1).mean()


def unit(maps: Tensor) -> Tensor:
    return maps / (maps.norm(dim=1, keepdim=True) + EPS)


class LwM(LwF):
    Config = config.LwM

    def __init__(self, config: config.LwM, accelerator: Accelerator):
        super().__init__(config, accelerator)
        one_of("method.top_class", config.top_class, TOP_CLASS)
        if config.compile:
            raise InputError("method.compile cannot differentiate LwM's attention a second time: leave it out")
        if config.gamma and config.frozen:
            raise InputError("method.frozen=true leaves LwM no maps that could learn to attend: leave it false, or set method.gamma=0")
        if config.gamma and not self.net.backbone.convolutional:
            raise InputError(f"method.backbone={config.backbone} has no convolutional feature map for LwM's attention: choose a ResNet")

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        """L_C + beta L_D + gamma L_AD; L_C and L_D are the new and the old outputs of LwF-MC's loss. The first task has only L_C."""
        if self.teacher is None or not self.config.gamma:
            return super().loss(net, batch)
        logits, maps = net(batch.inputs, with_maps=True)
        with torch.no_grad():
            old_maps = self.teacher.maps(batch.inputs).float()
        with torch.enable_grad():
            old_logits = self.teacher.classify(old_maps.requires_grad_())  # its activations get gradients, its weights none
        old = old_logits.shape[1]
        ranked = logits[:, :old] if self.config.top_class == "student" else old_logits
        top = ranked.argmax(1, keepdim=True)  # [B, 1]: both maps are of this class
        before = attention(old_logits.gather(1, top), old_maps, create_graph=False)
        now = attention(logits.gather(1, top), maps, create_graph=True)
        loss = distillation_loss(logits, batch.labels, old_logits.detach().float(), self.config.beta, self.config.outputs)
        return loss + self.config.gamma * attention_distance(before, now)
