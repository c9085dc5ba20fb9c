"""Makes prompts.json and likelihoods.json from lm-evaluation-harness's own task definitions.

    python make.py prompts                     # requests of made-up rows, as the harness builds them
    python make.py tiny ../../../pipelines/tiny   # their log-likelihoods under the embedded model
    python make.py real GGUF DATA > real.json  # numbers only, of the first rows of real data

Needs lm_eval (0.4.13), transformers, torch. No row here is of a published data set.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHOTS = 2

ROWS = {
    "boolq": [
        {"passage": "A kite is a toy that flies on a string.", "question": "does a kite fly", "label": 1},
        {"passage": "Iron sinks in water.  Wood floats.", "question": "does iron float", "label": 0},
        {"passage": "Ana keeps a \u00fc-shaped magnet.\n", "question": "is the magnet round", "label": 0},
        {"passage": "", "question": "is this empty", "label": 1},
        {"passage": "Tom ran home.", "question": "did Tom run ", "label": 1},
    ],
    "hellaswag": [
        {"activity_label": "Washing dishes", "ctx_a": "A man fills the sink.", "ctx_b": "he",
         "endings": ["scrubs a plate.", "flies away.", "eats the soap. ", "sings [step] loudly."], "label": "0"},
        {"activity_label": "Home and Garden", "ctx_a": "How to water plants [title] Fill a can.  Lift it.",
         "ctx_b": "", "endings": ["Pour slowly. [title] Wait", "Run.", "[substeps] Sit.", "Sleep  now."],
         "label": "1"},
        {"activity_label": "Skating", "ctx_a": " Two girls skate.", "ctx_b": "the OLDER Girl",
         "endings": ["spins.", "drives a bus.", "melts.", "is a door."], "label": "0"},
        {"activity_label": "Cooking", "ctx_a": "[header] Soup [title] Chop onions", "ctx_b": "\u00e9lise",
         "endings": ["stirs.", "cries   a lot.", "leaves.", "a [x] b"], "label": "3"},
        {"activity_label": "Chess", "ctx_a": "They play.", "ctx_b": "one of THEM",
         "endings": ["wins", "loses", "draws", "resigns"], "label": "2"},
    ],
    "arc_easy": [
        {"question": "What falls from clouds?", "choices": {"text": ["rain", "stones", "cars", "light bulbs"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
        {"question": "Which is a metal?", "choices": {"text": ["wood", "copper", "glass"],
         "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": "Plants need what? ", "choices": {"text": ["light", "radio", "salt water", "noise", "ice"],
         "label": ["A", "B", "C", "D", "E"]}, "answerKey": "E"},
        {"question": "Ice is frozen", "choices": {"text": [" water", "air"], "label": ["A", "B"]},
         "answerKey": "A"},
        {"question": "2 + 2 =", "choices": {"text": ["4", "5", "22", "\u00bd"], "label": ["A", "B", "C", "D"]},
         "answerKey": "D"},
    ],
    "piqa": [
        {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Paint the lid.", "label": 0},
        {"goal": "Dry wet shoes", "sol1": "fill them with water", "sol2": "stuff them with paper", "label": 1},
        {"goal": "Cut bread ", "sol1": "Use a knife", "sol2": " Use a spoon", "label": 0},
        {"goal": "Cool tea", "sol1": "wait", "sol2": "boil it again and again", "label": 0},
        {"goal": "Hang a na\u00efve picture", "sol1": "nail", "sol2": "soup", "label": 0},
    ],
    "winogrande": [
        {"sentence": "Ann paid Bea because _ had sold a bike.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        {"sentence": "The cup did not fit the box as the _ was small.", "option1": "cup", "option2": "box",
         "answer": "2"},
        {"sentence": "_ thanked Joe.", "option1": "Kim", "option2": "Joe", "answer": "1"},
        {"sentence": "Sam woke before Max, so the alarm was for _ .", "option1": "Sam", "option2": "Max",
         "answer": "1"},
        {"sentence": "Lea \u2014 not Ida \u2014 sang, so _  was tired _.", "option1": "Lea", "option2": "Ida",
         "answer": "1"},
    ],
    "openbookqa": [
        {"id": "1", "question_stem": "A stove is", "choices": {"text": ["hot", "a fish", "blue", "wet"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
        {"id": "2", "question_stem": "Bees make:", "choices": {"text": ["milk", "honey", "iron", "paper"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "B"},
        {"id": "3", "question_stem": "The moon ", "choices": {"text": ["glows at night", "sings", "eats", "runs"],
         "label": ["A", "B", "C", "D"]}, "answerKey": " A"},
        {"id": "4", "question_stem": "Fire needs", "choices": {"text": ["air", "ice", "mud", "\u65e5\u672c"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
        {"id": "5", "question_stem": "A seed becomes a", "choices": {"text": ["rock", "plant", "car", "lamp"],
         "label": ["A", "B", "C", "D"]}, "answerKey": "B"},
    ],
    "lambada_openai": [
        {"text": "Ben took the red ball to the park, and in the park he threw the ball"},
        {"text": "\"Who is there?\" she asked.\n\n\"Only me,\" said Leo"},
        {"text": "He ran, and  ran, and ran"},
        {"text": "The caf\u00e9 was full of people who loved the caf\u00e9"},
        {"text": "word by word by word"},
    ],
    "wikitext": [
        {"page": " \n = Red kite = \n \n The red kite ( Milvus milvus ) is a bird . It 's large , at 1 @,@ 200 g . \n"},
        {"page": "\n = Short = \n One @-@ word \" pages \" are 3 @.@ 5 % of the N pages ; others : not ! \n = = Part = = \n"},
        {"page": " = Odd = \n The dogs ' bowl [ blue ] was { empty } ? At 20 \u00b0 C , yes . \n = = = Deep = = = \n end"},
    ],
}
ROWS["arc_challenge"] = [
    {"question": "Which tool measures mass?", "choices": {"text": ["scale", "ruler", "clock", "thermometer"],
     "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
    {"question": "A magnet attracts", "choices": {"text": ["wood", "plastic", "iron nails", "paper"],
     "label": ["1", "2", "3", "4"]}, "answerKey": "3"},
    {"question": "Sound is fastest in", "choices": {"text": ["air", "steel", "water"], "label": ["A", "B", "C"]},
     "answerKey": "B"},
    {"question": "Which planet is red?", "choices": {"text": ["Mars", "Venus"], "label": ["A", "B"]}, "answerKey": "A"},
    {"question": "Shadows are longest at", "choices": {"text": ["noon", "dusk"], "label": ["A", "B"]}, "answerKey": "B"},
]
YAML = {
    "boolq": "super_glue/boolq/default", "hellaswag": "hellaswag/hellaswag", "arc_easy": "arc/arc_easy",
    "arc_challenge": "arc/arc_challenge", "piqa": "piqa/piqa", "winogrande": "winogrande/default",
    "openbookqa": "openbookqa/openbookqa", "lambada_openai": "lambada/lambada_openai", "wikitext": "wikitext/wikitext",
}


def task_of(name, rows, shots):
    """The harness's task over `rows`; few-shot examples are the first of them, and are left out of its items."""
    import datasets
    import lm_eval.api.task as task_module
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    examples, items = rows[:shots], rows[shots:]
    splits = {"train": examples or rows, "validation": items, "test": items}
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in splits.items()})
    task_module.datasets.load_dataset = lambda *_, **__: data
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / f"{YAML[name]}.yaml")
    config = {key: value for key, value in config.items() if key not in ("tag", "group")}
    if shots:
        config["fewshot_config"] = {"sampler": "first_n", "split": "train"}
    return task_module.ConfigurableTask(config=config)


def requests_of(name, rows, shots):
    task = task_of(name, rows, shots)
    docs = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
    items = []
    for doc in docs:
        context = "" if name == "wikitext" else task.fewshot_context(doc, shots)
        made = task.construct_requests(doc=doc, ctx=context)
        made = made if isinstance(made, list) else [made]
        item = {"requests": [list(r.arguments) for r in made]}
        if name == "wikitext":
            item["words"] = len(re.split(r"\s+", doc["page"]))
            item["bytes"] = len(doc["page"].encode())
        elif task.OUTPUT_TYPE == "multiple_choice":
            gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
            item["gold"] = gold
            item["lengths"] = [len(c) for c in task.doc_to_choice(doc)]
        items.append(item)
    return items


def prompts():
    made = {}
    for name, rows in ROWS.items():
        made[name] = {"rows": rows, "items": requests_of(name, rows, 0)}
        if name not in ("wikitext",):
            made[name]["shots"] = requests_of(name, rows, SHOTS)
    (HERE / "prompts.json").write_text(json.dumps(made, indent=1, ensure_ascii=True) + "\n")


def scored(model, prompts):
    """Log-likelihood and greedy flag of every request, by HFLM."""
    from lm_eval.api.instance import Instance

    made = {}
    for name, items in prompts.items():
        kind = "loglikelihood_rolling" if name == "wikitext" else "loglikelihood"
        flat = [Instance(kind, {}, tuple(r), i) for item in items for i, r in enumerate(item["requests"])]
        results = iter(getattr(model, kind)(flat, disable_tqdm=True))
        made[name] = [[next(results) for _ in item["requests"]] for item in items]
    return made


def hflm(network, tokenizer):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=network.eval(), tokenizer=tokenizer, batch_size=1, device="cpu")


def tiny(folder):
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", bos_token=end, eos_token=end)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    golden = json.loads((HERE / "prompts.json").read_text())
    model = hflm(network, tokenizer)
    made = {"items": scored(model, {k: v["items"] for k, v in golden.items()}),
            "shots": scored(model, {k: v["shots"] for k, v in golden.items() if "shots" in v})}
    (HERE / "likelihoods.json").write_text(json.dumps(made) + "\n")


REAL = {
    "boolq": "boolq/validation", "arc_easy": "arc_easy/test", "winogrande": "winogrande_xl/validation",
    "openbookqa": "openbookqa/test", "lambada_openai": "lambada_openai/test",
}


def real(gguf, data):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = Path(gguf)
    network = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    network = network.to(torch.bfloat16).to(torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    prompts = {}
    for name, path in REAL.items():
        with open(f"{data}/{path}.jsonl", encoding="utf-8") as lines:
            rows = [json.loads(next(lines)) for _ in range(8)]
        for row in rows:
            if name == "boolq":
                row["label"] = int(row["answer"])
        prompts[name] = requests_of(name, rows, 0)
    made = scored(hflm(network, tokenizer), prompts)
    (HERE / "smollm2.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    {"prompts": prompts, "tiny": tiny, "real": real}[sys.argv[1]](*sys.argv[2:])
