"""The dev set during training: loss by teacher forcing, scores by the service's own search."""

from collections import defaultdict

import torch

from app.evaluation.evaluate import search_sources
from app.evaluation.scores import summary_scores, transcript_scores, translation_scores
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel
from app.training.batching import Batches
from app.training.objective import decoded_cross_entropy
from app.training.recipe import Recipe

# Evaluation during training is greedy: the curve matters, and a beam costs several times as much.
BEAM_SIZE = 1


class Validation:
    """Scores a model on the held-out batches; `dev_sentences` of the recipe a direction are decoded."""

    def __init__(self, batches: Batches, recipe: Recipe) -> None:
        self.batches = batches
        self.recipe = recipe
        self.max_target_length = recipe.model.max_length
        num_sentences = recipe.training.dev_sentences
        self.by_direction: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, example in enumerate(batches.examples):
            self.by_direction[example.direction].append(number)
        # Spread over the set: held-out files are often ordered by corpus.
        for direction, numbers in self.by_direction.items():
            every = max(1, len(numbers) // num_sentences)
            self.by_direction[direction] = numbers[::every][:num_sentences]

    def run(self, model: Seq2Seq) -> dict[str, float]:
        """dev/loss in nats a token (not smoothed), and the mean over directions of dev/bleu and dev/chrf, or for
        summaries of dev/rouge1, dev/rouge2, dev/rougeL and their mean dev/rouge, or of speech dev/wer and dev/cer."""
        metrics = {"dev/loss": self._loss(model)}
        found: defaultdict[str, list[float]] = defaultdict(list)
        vocabulary = self.batches.vocabulary
        step_model = TorchModel(
            model,
            bos_id=vocabulary.bos_id,
            eos_id=vocabulary.eos_id,
            pad_id=vocabulary.pad_id,
            max_target_length=self.max_target_length,
        )
        for (source, target), numbers in self.by_direction.items():
            search = self.recipe.search.model_copy(update={"beam_size": BEAM_SIZE, "length_penalty": 1.0})
            sources = [self.batches.sources[i] for i in numbers]
            best = search_sources(step_model, sources, search.model_dump(), beginning=vocabulary.beginning)
            texts = [vocabulary.tokenizer.decode(hypothesis.ids) for hypothesis in best]
            references = [self.batches.examples[i].target for i in numbers]
            for name, value in self._scores(texts, references).items():
                found[name].append(value)
                metrics[f"dev/{name}/{source}-{target}"] = value
        return metrics | {f"dev/{name}": sum(values) / len(values) for name, values in found.items()}

    def _scores(self, texts: list[str], references: list[str]) -> dict[str, float]:
        if self.recipe.task == "translate":
            bleu, chrf = translation_scores(texts, references, with_intervals=False)
            return {"bleu": bleu.value, "chrf": chrf.value}
        if self.recipe.task == "transcribe":
            return {
                score.name.lower(): score.value for score in transcript_scores(texts, references, with_intervals=False)
            }
        rouge = {
            score.name.lower().replace("-", ""): score.value
            for score in summary_scores(texts, [[reference] for reference in references], with_intervals=False)
        }
        return rouge | {"rouge": sum(rouge.values()) / len(rouge)}

    @torch.no_grad()
    def _loss(self, model: Seq2Seq) -> float:
        model.eval()
        device = model.output.weight.device
        total, num_tokens = 0.0, 0
        for _, batch in self.batches.epoch(0):
            batch = batch.to(device)
            decoded = model.decode(batch.source, batch.lengths, batch.target)
            total += float(decoded_cross_entropy(decoded, model.output, batch.source, batch.gold, batch.pad_id, 0.0))
            num_tokens += batch.num_target_tokens
        return total / num_tokens
