"""Every threshold of the data check, once: a rule's number stands here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers behind the rules. Shares are of rows, 0 to 1; words are those of attune.data.duplicates.words."""

    # D02 template-in-content: a row or two speak about markup, more were rendered before
    markup_error_rows: int = 3
    markup_error_share: float = 0.005
    # D04 split-leak: held-out rows that training rows give away
    leak_ngram: int = 8  # a held-out row's words count as covered where they stand in such a run of a training row
    leak_coverage: float = 0.5  # covered share from which it is a leak
    leak_most_rows: int = 200  # runs of words in more training rows than that are boilerplate in data of any size
    leak_question_words: int = 4  # a shorter question that two rows share is no leak
    leak_passage: int = 13  # a run of so many equal words is a shared passage
    leak_error_share: float = 0.01  # of the held-out rows; below it is a warning
    # D05 conflict
    short_answer_words: int = 8  # an answer of at most so many words says one thing: two of them contradict
    conflict_error_share: float = 0.05  # of rows whose answers are labels of a closed set
    conflict_label_rows: int = 5  # answers that such a label has at least
    # D06 duplicates
    common_shingle_share: float = 0.01  # shingles in more rows than this are the template's, not the row's
    shingle_words: int = 2
    fewest_shingles: int = 3  # with fewer rare shingles a row is compared by all of its shingles
    near_jaccard: float = 0.7
    near_jaccard_other_numbers: float = 0.9  # rows that hold different numbers must be more alike than that
    near_answer_jaccard: float = 0.6  # and of the two answers alone
    near_question_jaccard: float = 0.5  # and of the two questions
    common_fewest_rows: int = 10  # in small data: what stands in no more rows than that is not common
    template_share: float = 0.25  # short rows are also compared by common shingles, if in no more rows than that
    short_shingles: int = 24  # fewer rare shingles make a row short
    passage_words: int = 4  # where so many words in a row are others, two rows hold different passages
    passage_jaccard: float = 0.3  # unless these words are alike
    # D07 broken-structure and D16 mixed-format
    task_rows: int = 20  # fewer rows with the same instruction are no task of their own
    structured_share: float = 0.8  # from here on a task's answers are JSON, and another answer is a mistake
    label_share: float = 0.95  # from here on a task's answers are labels of a closed set
    label_rows: int = 5  # answers that a label of a closed set has at least
    label_task_rows: int = 100  # fewer rows with labels are no task of their own
    json_rows: int = 5  # fewer answers in bare JSON say nothing about damage
    json_whole_share: float = 0.5  # from here on of them parse, and another is damaged
    field_type_share: float = 0.95  # a JSON field is of one type from here on
    field_present_share: float = 0.98  # a JSON field belongs to the format from here on
    # D08 truncated-answer
    truncated_words: int = 40  # shorter answers are not judged
    truncated_last_line_words: int = 8
    truncated_list_item_words: int = 14
    truncated_going_on_words: int = 3  # enough where the last word wants another, or the lines before it all stop
    truncated_going_on_item_words: int = 6
    truncated_stopped_share: float = 0.8  # of the lines before it
    pile_up_share: float = 0.01  # from here on, answers near the longest one were cut by a generator's limit
    pile_up_within: float = 0.02  # of the greatest length counts as near it
    pile_up_open_share: float = 0.5  # of a pile's answers that stop without a closing mark
    # D09 opener-concentration
    opener_words: int = 3
    opener_share: float = 0.05
    opener_error_share: float = 0.20
    # D11 mismatch with real prompts
    mismatch_auc: float = 0.65
    mismatch_error_auc: float = 0.85
    mismatch_z: float = 3.0
    mismatch_fewest_prompts: int = 100
    mismatch_most_prompts: int = 5000
    mismatch_unlike: float = 0.01  # a real prompt is unlike where fewer training prompts than this look as real
    # D12 truncation budget
    lost_share: float = 0.005  # of the learned tokens
    # D13 language
    language_characters: int = 40  # shorter texts are not judged
    language_probability: float = 0.9
    language_likely: float = 0.6  # a probability that counts together with a little word of the language
    language_held_words: int = 3  # little words by which a prompt holds a text in another language
    language_task_share: float = 0.5  # of the rows asked in one language: so many answers in another are the task
    language_task_rows: int = 20
    # D14 refusals
    refusal_characters: int = 200  # of an answer's beginning
    refusal_share: float = 0.05
    # D15 secrets: a value given to a password or key
    secret_entropy: float = 3.0  # bits per character; English words have about 2.5 to 3 over such short stretches
    secret_long: int = 20  # characters, from which letters and digits alone are taken for a key
    # D17 and D18, with a model
    ifd: float = 1.0  # perplexity after the prompt over that without it: above it the prompt does harm
    weak_prompt_z: float = 2.5  # robust deviations: where prompts help much, one that helps less than half as much
    loss_z: float = 10.0  # robust deviations; losses have long tails, 4 flags 2.6 % of clean tickets
    # what the pages show
    most_examples: int = 1000  # rows that a finding names
    sample_rows: int = 5000  # rows that coverage looks at


DEFAULT = Thresholds()
