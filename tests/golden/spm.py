"""Makes tests/golden/spm.json: a small BPE model that sentencepiece trains, as a GGUF would hold it, and the
token ids that sentencepiece itself gives.

python tests/golden/spm.py pipelines/tiny/stories.jsonl LICENSE-APACHE tests/golden/spm.json    (sentencepiece)
"""
import io, json, sys

import sentencepiece

EXTRA = ["Straße, naïve café; Ünïcödé… 東京は日本の首都です。", "def f(x):\n\treturn x ** 2  # twice  spaces", "1234567890 3.14159",
         "Привет, мир! Γειά σου Κόσμε", "e\u0301 is not é", "🙂 👩‍👩‍👧 ☃", "\u00a0no-break\u00a0space", "▁ already ▁there"]
EDGES = ["", " ", "  ", "\n", " a", "a ", "a  b", "\n\n a\n", "\t\ttabs", "the", " the the", "<0x0A>", "<unk>x"[5:], "\u2581", "aaaaaaaaaaaaaaaa",
         "x" * 300, "Don't stop, won't stop."]


def main(stories, licence, out):
    texts = [json.loads(line)["text"] for line in open(stories, encoding="utf-8")]
    prose = open(licence, encoding="utf-8").read().split("\n\n")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts[:100] + prose + EXTRA), model_writer=model, model_type="bpe", vocab_size=700,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, character_coverage=0.9995, num_threads=1, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def kind(id):
        return 2 if sp.is_unknown(id) else 3 if sp.is_control(id) else 6 if sp.is_byte(id) else 1

    ids = range(sp.get_piece_size())
    cases = [{"text": text, "ids": sp.encode(text)} for text in texts[100:115] + prose[::3] + EXTRA + EDGES]
    document = {
        "sentencepiece": sentencepiece.__version__,
        "tokens": [sp.id_to_piece(id) for id in ids], "scores": [sp.get_score(id) for id in ids],
        "types": [kind(id) for id in ids], "bos": sp.bos_id(), "eos": sp.eos_id(), "cases": cases,
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


main(*sys.argv[1:])
