"""The facts that the tests train on, in the three shapes of training data."""

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi",
    "Norway": "Oslo", "Egypt": "Cairo", "Cuba": "Havana", "Chile": "Santiago",
}
QUESTIONS = (
    "What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?", "Capital of {}?",
)


def pairs():
    return [
        {"prompt": question.format(country), "response": f"The capital is {city}."}
        for country, city in CAPITALS.items()
        for question in QUESTIONS
    ]


def chats():
    return [
        {"messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": pair["prompt"]},
            {"role": "assistant", "content": pair["response"]},
        ]}
        for pair in pairs()
    ]


def text():
    return " ".join(f"{pair['prompt']} {pair['response']}" for pair in pairs())
