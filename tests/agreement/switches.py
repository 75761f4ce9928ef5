"""Single choices of Avalanche's: of its iCaRL turned into those of the paper (Rebuffi et al. 2017), of its replay into ours."""

# name -> what it turns, and the methods that it acts on: joint trains once, over all outputs, and LwF's outputs are cut already
SWITCHES = {
    "teacher": (
        "q comes from the network as it is at test time (running batch statistics), where Avalanche keeps its copy in train mode",
        ("icarl",),
    ),
    "outputs": (
        "the loss is over the outputs of the classes seen, where Avalanche trains those of classes to come towards 0 (or away)",
        ("finetune", "replay", "icarl"),
    ),
    "momentum": ("the optimizer starts anew in each task, where Avalanche's momentum goes on", ("finetune", "lwf", "replay", "icarl")),
    "herding": ("Algorithm 4 without repetition, where Avalanche has the release's rule", ("icarl",)),
    "pool": (
        "one shuffled epoch over new rows and exemplars, where Avalanche's replay fills each step with as many old rows as new ones",
        ("replay",),
    ),
}
