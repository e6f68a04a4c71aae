"""How large a vocabulary should be for a small corpus, by bits a byte, which do not depend on the tokenizer, at equal
FLOPs. A larger vocabulary sees more text in a step, and has rarer tokens and a larger head to train."""

from experiments.declaration import Better, Experiment, Figure, Published, Quick

EXPERIMENT = Experiment(
    claim="On a corpus of a few megabytes a vocabulary of 4,096 is better in bits a byte than one of 512 and one of "
    "16,384, at equal FLOPs.",
    chapter="A vocabulary stops paying when pairs are as rare as their parts.",
    settings={"pretrain": {"steps": 400, "evaluate_every": 20}},
    variants={
        str(size): {"train_tokenizer": {"vocab_size": size, "encoding": None}} for size in (512, 1024, 4096, 16_384)
    },
    figure=Figure(at_equal="flops"),
    contrasts=[Better(better="4096", than="512"), Better(better="4096", than="16384")],
    published=[
        Published(
            source="Tao et al. 2024, 'Scaling Laws with Vocabulary: Larger Models Deserve Larger Vocabularies'",
            says="The best size of a vocabulary grows with the compute, more slowly than the model.",
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 5}}, variants=["512", "4096"]),
)
