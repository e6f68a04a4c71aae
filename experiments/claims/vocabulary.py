"""How large a vocabulary should be for a small corpus, by bits a byte, which do not depend on the tokenizer, after the
same number of steps. A larger vocabulary sees more text in a step, and has rarer tokens and a larger head to train."""

from experiments.declaration import Better, Experiment

EXPERIMENT = Experiment(
    claim="On a corpus of a few megabytes a vocabulary of 8,192 beats ones of 1,024 and 2,048 in bits a byte at equal "
    "steps.",
    variants={str(size): {"train_tokenizer": {"vocab_size": size, "encoding": None}} for size in (1024, 2048, 8192)},
    contrasts=[Better(better="8192", than="2048"), Better(better="8192", than="1024")],
    equal=["steps"],
)
