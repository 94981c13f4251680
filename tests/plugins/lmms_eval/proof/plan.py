"""What is run: models, methods, tasks."""

#: the shipped model, and families with tiny random weights whose prompts and images differ in size
MODELS = ("embedded", "qwen2_5_vl", "llava_onevision")
#: methods with their options; "none" is the unpruned model
METHODS = {
    "none": {},
    "entropy": {"keep": 0.5, "layer": 2},
    "fastv": {"keep": 0.25, "layer": 2},
    "selection": {"keep": 0.25},
}
#: tasks as messages; one whose answers are likelihoods, which lmms-eval asks of simple models
GENERATED = ("scenes_caption", "scenes_yesno", "scenes_pair")
CHOSEN = "scenes_choice"
#: number of scenes; the last batch is smaller than the others
SCENES, BATCH = 10, 4
#: the row that is computed again: after a kill, and by two processes
AGAIN = ("embedded", "fastv")
#: arguments that lmms-eval must be told off for, and what the message has to name
WRONG = {
    "method=entropi": ("no pruning method 'entropi'", "fastv"),
    "method=fastv,kep=0.5": ("no argument 'kep'", "keep"),
    "method=fastv,keep=1.5": ("keep must be in", "1.5"),
    "method=fastv,layer=99": ("layer", "99"),
}
