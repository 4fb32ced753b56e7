"""Numbers printed in the first paper that these experiments can be compared with.

Liu et al. (2025), arXiv:2502.20408v1. GPT-2 was fine-tuned for each task; the others answer prompts.
"""

CLAIMS = {
    "lesions": "Silencing a functional network, or all ten (under 2 % of the units), breaks the model.",
    "strongest": "Not asked in the paper: is it the network that matters, or a handful of its neurons?",
    "retain_only": "Keeping the neurons of the networks, about 10 % of the units, is nearly enough.",
    "amplification": "Amplifying functional networks improves the model (second version, abstract).",
    "recurrence": "Networks found on some texts recur in single other texts (IoU > 0.2).",
}

PRINTED = {
    "lesions": """| model | condition | CoLA | SST-2 | MNLI | QNLI | AG News | SQuAD F1 |
| --- | --- | --- | --- | --- | --- | --- | --- |
| GPT-2 | intact | .778 | .916 | .685 | .875 | .861 | .340 |
| | 15 % of the units at random (one draw) | .738 | .908 | .688 | .857 | .849 | .315 |
| | ten networks (under 2 %) | .577 | .544 | .600 | .681 | .556 | .134 |
| Qwen2.5-3B | intact | .691 | .844 | .273 | .395 | .719 | .210 |
| | ten networks | .000 | .000 | .000 | .000 | .000 | .006 |
| ChatGLM3-6B | intact | .689 | .939 | .206 | .107 | .913 | .902 |
| | ten networks | .000 | .142 | .000 | .005 | .003 | .036 |

One network at a time, GPT-2 on AG News (intact .861; 15 to 72 of 9,216 units each): .854, .664, .839, .844, .575,
.850, .848, .704, .675, .847. So six of the ten do next to nothing in the paper itself. An answer that cannot be parsed
counts as wrong there, hence the zeros.""",
    "strongest": "Nothing on this.",
    "retain_only": """| AG News, accuracy (share of the units kept) | K = 10 | 64 | 128 | 256 | 512 | intact |
| --- | --- | --- | --- | --- | --- | --- |
| GPT-2 | .685 (0.9 %) | .704 (4.3 %) | .846 (9.0 %) | .860 (13.9 %) | .861 (17.4 %) | .861 |
| Qwen2.5-3B | .120 (2.5 %) | .006 (10.1 %) | .728 (13.9 %) | .721 (15.6 %) | .721 (16.4 %) | .719 |
| ChatGLM3-6B | .000 (1.8 %) | .904 (10.3 %) | .909 (16.2 %) | .913 (23.1 %) | .913 (28.7 %) | .913 |""",
    "amplification": """No figure in the first version. Its code adds a constant 1 to every unit of GPT-2's networks,
and chooses and tests on the same text.""",
    "recurrence": """| pairs (10 templates, 1,000 networks of single texts) with IoU > 0.2 | news | wiki | math | code |
| --- | --- | --- | --- | --- |
| GPT-2 | 294 (2.9 %) | 743 (7.4 %) | 658 (6.6 %) | 1,021 (10.2 %) |
| Qwen2.5-3B-Instruct | 178 (1.8 %) | 173 (1.7 %) | 111 (1.1 %) | 186 (1.9 %) |
| ChatGLM3-6B | 4 (0.04 %) | 4 (0.04 %) | 9 (0.09 %) | 2 (0.02 %) |""",
}
