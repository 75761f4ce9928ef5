"""The residual network of the CIFAR protocols, from scratch. Shapes: B batch, H and W in pixels."""

from torch import Tensor, nn
from torch.nn.functional import pad


class _Block(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (He et al. 2016, option A: stride and zero-padded channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int, final_relu: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra, self.final_relu = stride, outputs - inputs, final_relu

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.extra:
            shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + shortcut
        return y.relu() if self.final_relu else y


class CifarResNet(nn.Module):
    """The 6n+2-layer residual network for 32x32 images (He et al. 2016, section 4.2); n = 5 is ResNet-32.

    iCaRL's release has no ReLU between the last block and the pooling, most later ones have: `final_relu`.
    """

    convolutional = True  # its maps are [B, K, H, W]

    def __init__(self, n: int, final_relu: bool = False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16] * n + [32] * n + [64] * n
        befores = [16, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                _Block(before, width, 1 if before == width else 2, final_relu or i < 3 * n - 1)
                for i, (before, width) in enumerate(zip(befores, widths, strict=True))
            )
        )
        self.features = 64
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 64, H/4, W/4], the output of the last block"""
        return self.blocks(self.stem(x))

    def pool(self, maps: Tensor) -> Tensor:
        """[B, 64, H/4, W/4] -> [B, 64]"""
        return maps.mean((2, 3))
