"""The real lmms-eval against our own captions: `python -m tests.plugins.lmms_eval.proof`.

Runs in the environment that `make lmms-eval` builds, without a network: lmms-eval loads the plug-in
from the installed package, and answers questions about generated scenes with the embedded model and
tiny models of other families, whole and pruned. What it logs is compared with what this checkout's
own code answers; the comparison is the record in `data/results/lmms-eval/`.

    plan        models, methods, tasks
    material    scenes and questions about them, models as folders
    own         our own answers and likelihoods
    host        a run of lmms-eval in processes of its own, and what it logged
    rows        a model under a method: both, compared
    again       a killed run that goes on, two processes, what is refused
    record      what must hold of the record
"""
