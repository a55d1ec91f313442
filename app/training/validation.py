"""The dev set during training: loss by teacher forcing, scores by the service's own search."""

from collections import defaultdict

import torch

from app.evaluation.evaluate import search_sources
from app.evaluation.scores import translation_scores
from app.models.interface import Seq2Seq
from app.models.stepping import TorchModel
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID
from app.training.batching import Batches
from app.training.objective import smoothed_cross_entropy

# Evaluation during training is greedy: the curve matters, and a beam costs several times as much.
BEAM_SIZE = 1


class Validation:
    """Scores a model on the held-out batches; `num_sentences` a direction are decoded."""

    def __init__(self, batches: Batches, num_sentences: int, max_target_length: int) -> None:
        self.batches = batches
        self.max_target_length = max_target_length
        self.by_direction: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, example in enumerate(batches.examples):
            self.by_direction[example.direction].append(number)
        # Spread over the set: held-out files are often ordered by corpus.
        for direction, numbers in self.by_direction.items():
            every = max(1, len(numbers) // num_sentences)
            self.by_direction[direction] = numbers[::every][:num_sentences]

    def run(self, model: Seq2Seq) -> dict[str, float]:
        """dev/loss in nats a token (not smoothed), and dev/bleu and dev/chrf, the mean over directions."""
        metrics = {"dev/loss": self._loss(model)}
        bleus, chrfs = [], []
        step_model = TorchModel(
            model, bos_id=BOS_ID, eos_id=EOS_ID, pad_id=PAD_ID, max_target_length=self.max_target_length
        )
        for (source, target), numbers in self.by_direction.items():
            best = search_sources(step_model, [self.batches.sources[i] for i in numbers], BEAM_SIZE, 1.0)
            texts = [self.batches.tokenizer.decode(hypothesis.ids) for hypothesis in best]
            references = [self.batches.examples[i].target for i in numbers]
            bleu, chrf = translation_scores(texts, references, with_intervals=False)
            bleus.append(bleu.value)
            chrfs.append(chrf.value)
            metrics[f"dev/bleu/{source}-{target}"] = bleus[-1]
        return metrics | {"dev/bleu": sum(bleus) / len(bleus), "dev/chrf": sum(chrfs) / len(chrfs)}

    @torch.no_grad()
    def _loss(self, model: Seq2Seq) -> float:
        model.eval()
        device = model.output.weight.device
        total, num_tokens = 0.0, 0
        for _, batch in self.batches.epoch(0):
            batch = batch.to(device)
            features = model.decode(batch.source, batch.lengths, batch.target)
            total += float(smoothed_cross_entropy(features, model.output, batch.gold, PAD_ID, 0.0))
            num_tokens += batch.num_target_tokens
        return total / num_tokens
