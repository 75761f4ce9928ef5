"""What the named data sets are as published: how many classes and images, and, where we could compute it, what these are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """None where a figure is not known. Without an official split, `total` counts all images."""

    classes: int
    train: int | None = None
    test: int | None = None
    total: int | None = None
    sha256: str | None = None  # `data.source.fingerprint`

    def difference(self, classes: int, train: int, test: int, sha256: str) -> tuple[str, str] | None:
        """-> a word for the stream's key and what to say of data that are not the published ones; None for those that are"""
        found = {"classes": classes, "training images": train, "test images": test, "images": train + test}
        known = {"classes": self.classes, "training images": self.train, "test images": self.test, "images": self.total}
        wrong = [what for what, count in known.items() if count is not None and found[what] != count]
        if wrong:
            said = (", ".join(f"{one[what]:,} {what}" for what in wrong) for one in (found, known))
            return "part", "holds {} where the published set has {}".format(*said)
        if self.sha256 is not None and sha256 != self.sha256:
            return "other", "holds as many images as the published set, but not the same images under the same classes"
        return None


PUBLISHED = {
    # scikit-learn brings them along.
    "digits": Published(10, 1_347, 450, sha256="572c722faf6010531098629238f3b252b8e4798a0fd2c74a0573d67acda680cb"),
    # Krizhevsky 2009. Its digest is not known here: no copy was at hand.
    "cifar10": Published(10, 50_000, 10_000),
    # Computed from a pixel-exact copy of all 60,000 images. Cross-check: the means of the channels over its training images are the
    # published 0.5071, 0.4865, 0.4409 (tests/data/test_published.py).
    "cifar100": Published(100, 50_000, 10_000, sha256="2a9bff4b24580d4603b1b104b6ffe87c3b34777b7a1f4699e469a64685858d19"),
    "tiny_imagenet": Published(200, 100_000, 10_000),  # Stanford CS231n
    "imagenet_r": Published(200, total=30_000),  # Hendrycks et al. 2021
    "imagenet100": Published(100, test=5_000),  # 50 a class, as of ILSVRC 2012
    "imagenet1k": Published(1_000, 1_281_167, 50_000),  # ILSVRC 2012
    "cub200": Published(200, 5_994, 5_794),  # Wah et al. 2011
    "caltech101": Published(101, total=8_677),  # Fei-Fei et al. 2004, without the background folder
    "mini_imagenet": Published(100, 50_000, 10_000),  # Zhang et al. 2021
    "core50": Published(50, 119_894, 44_972),  # Lomonaco and Maltoni 2017
    "domainnet": Published(345, 409_832, 176_743),  # Peng et al. 2019, the cleaned lists
}
