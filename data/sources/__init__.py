"""Data sets. One small module each, with `load(config) -> Source`; the registry names them lazily."""

# name -> function, imported when it is chosen. Other packages add theirs through the entry points `cilbench.sources`.
SOURCES = {
    "digits": "data.sources.digits:load",
}
