"""Parts of data sets that the tasks beside this file ask for."""

MMLU_MATH = (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "high_school_mathematics",
    "high_school_statistics",
)


def mmlu_math(docs):
    return docs.filter(lambda doc: doc["subject"] in MMLU_MATH)


def mmlu_pro_math(docs):
    return docs.filter(lambda doc: doc["category"] == "math")
