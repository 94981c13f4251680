"""What a study consists of, one file a stage: captions, their scores, the methods' costs."""
