"""Data sets. One small module each, with `load(config) -> Source`; the registry names them lazily."""

# name -> function, imported when it is chosen. Other packages add theirs through the entry points `cilbench.sources`.
SOURCES = {
    "digits": "data.sources.digits:load",
    "cifar10": "data.sources.cifar:load_10",
    "cifar100": "data.sources.cifar:load_100",
    "tiny_imagenet": "data.sources.tiny_imagenet:load",
    "imagenet_r": "data.sources.imagenet_r:load",
    "imagenet100": "data.sources.imagenet:load_100",
    "imagenet1k": "data.sources.imagenet:load_1k",
    "cub200": "data.sources.cub200:load",
    "caltech101": "data.sources.caltech101:load",
    "mini_imagenet": "data.sources.mini_imagenet:load",
    "core50": "data.sources.core50:load",
    "domainnet": "data.sources.domainnet:load",
    "folder": "data.sources.folder:load",
    "hub": "data.sources.hub:load",
}
