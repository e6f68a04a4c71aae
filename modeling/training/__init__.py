"""From token arrays to a checkpoint.

Read in this order:

    pretrain, finetune  the two tasks, from their inputs to `stats.json`
    objectives          what is predicted, in which windows, and how well: causal and masked language modeling, or both
    multi_token         the same with tokens after the next
    windows             the order of the windows: of all tokens, of a mixture of sources, or one after the other
    sentence_pairs      the same for pairs of sentences
    seq2seq             the same for an encoder-decoder: hidden spans, or sources and targets
    trainer             the loop
    state               what a run is, and what changes as it goes on
    saving              checkpoints on the way, continuing, and the result
    checkpoints/        of sharded models, and for longer runs
    watching            rates, curve, TensorBoard, progress
    optim               Muon, AdamW and their schedules
    interruption        signals that wait for a safe moment
    distributed         the ranks that torchrun starts
    parallel            a model that is replicated or sharded over them
    process             all of this as a process of its own
"""
