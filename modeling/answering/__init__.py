"""Questions and answers: sets of them, models that are tuned on one, and their answers.

Read in this order:

    config      what a configuration says of a set of questions
    questions   a question with context and answers, and how sets are kept
    files       files of questions, in the layouts that there are
    maker       questions out of documents, by rules
    sets        a set of files or of a corpus, split
    metrics     exact match and F1
    windows     question and context as ids, in windows
    spans       from logits of beginnings and ends to answers
    extractive  training to find the answer in its context
    generative  training to write it after a prompt
    answer      answers by a checkpoint
    tune        from a checkpoint and a set of questions to `stats.json`
"""
