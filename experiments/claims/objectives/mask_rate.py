"""How many tokens to hide in masked fine-tuning; all are judged where 15 % are hidden."""

from experiments.declaration import Better, Experiment, Figure, Published, Quick

EXPERIMENT = Experiment(
    claim="Hiding 30 % of the tokens in training fills blanks better than hiding 15 %.",
    chapter="BERT hides 15 % of the tokens.",
    variants={f"{rate} %": {"finetune": {"mask_rate": rate / 100}} for rate in (15, 30, 40)},
    figure=Figure(stage="finetune", name="masked_accuracy", better="higher", baseline="most_frequent_accuracy"),
    contrasts=[Better(better="30 %", than="15 %")],
    equal=["steps", "tokens", "parameters", "flops"],
    settings={"finetune": {"steps": 300}},
    seeded=["pretrain.seed", "finetune.seed"],
    seeds=5,
    published=[
        Published(
            source="Wettig et al. 2023, 'Should You Mask 15% in Masked Language Modeling?', abstract",
            says="Masking 40 % outperforms 15 % for BERT-large sized models.",
            ours=[Better(better="40 %", than="15 %")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20}, "finetune": {"steps": 20}}, variants=["15 %", "30 %"]),
)
