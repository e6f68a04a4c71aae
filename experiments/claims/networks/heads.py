"""How many heads attention should have, at the same width and so at the same number of weights."""

from experiments.declaration import Better, Experiment, Published, Quick

EXPERIMENT = Experiment(
    claim="Four heads learn more from the same tokens than one, and than as many as leave two channels to each.",
    chapter="Several heads let attention look for several things at once.",
    variants={str(heads): {"pretrain": {"model": {"heads": heads}}} for heads in (1, 2, 4, 8, 64)},
    settings={"pretrain": {"model": {"width": 128}}},
    contrasts=[Better(better="4", than="1"), Better(better="4", than="64")],
    equal=["steps", "tokens", "parameters", "flops"],
    published=[
        Published(
            source="Vaswani et al. 2017, 'Attention Is All You Need', table 3, rows (A)",
            says="One head is 0.9 BLEU worse than the best number of heads, and too many are worse too.",
            ours=[Better(better="4", than="1"), Better(better="4", than="64")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}, variants=["1", "4"]),
)
