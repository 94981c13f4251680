"""What a study consists of, one file a stage: captions, divergences, scores, costs and more."""
