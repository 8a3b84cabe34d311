"""English sentences of our own: 200 lines of many kinds that calibrate a model, and others that measure it.

Those that calibrate, one or two sentences a line, were written one by one, so that words seldom repeat: the rounding
fits the tokens that it has seen, and with few words it would fit them alone. Those that measure are made by templates,
from 5 to about 80 tokens long.
"""

import random
from pathlib import Path
from typing import NamedTuple

__all__ = ["calibration", "evaluation"]


class Topic(NamedTuple):
    """Phrases that fit together, each list separated by a bar."""

    who: str
    did: str
    what: str
    where: str
    why: str
    facts: str


TOPICS = (
    Topic(
        "the surgeon|a night nurse|Dr. Patel|the clinic in Leeds|the patient's daughter|a team of cardiologists",
        "ordered|postponed|explained|documented|recommended against|had to repeat",
        "a second blood test|the knee operation|a course of antibiotics|an MRI scan of the lower spine|"
        "the new vaccination schedule|treatment for high blood pressure",
        "in the emergency ward|at the county hospital|before the morning round|during a video call|in room 214",
        "the first results were inconclusive|insulin levels had fallen overnight|two staff members were ill|"
        "the allergy had never been recorded|the fever returned after 48 hours",
        "chronic pain changes the way people sleep|most of the side effects disappear within a week|"
        "a healthy heart beats about 100,000 times a day|the drug is not licensed for children",
    ),
    Topic(
        "the central bank|an investor from Frankfurt|Ms. Okafor|the tax office|the board of directors|my accountant",
        "sold|questioned|approved|refused to publish|underestimated|restructured",
        "a third of the company's shares|the quarterly budget|a loan of $2.4 million|the pension fund's losses|"
        "an unusually generous offer|the annual audit",
        "on the stock exchange|in a letter to shareholders|at the end of the fiscal year|behind closed doors|online",
        "inflation rose faster than wages|interest rates stayed at 3.75%|the euro lost ground against the dollar|"
        "the regulator had asked for more transparency|the merger failed twice",
        "small savers pay the price of every crisis|gold is no protection against bad advice|"
        "nobody knows what the shares will be worth in 2030|the invoice is due within thirty days",
    ),
    Topic(
        "our goalkeeper|the visiting team|a sprinter from Kenya|the referee|Coach Ramirez|thousands of fans",
        "missed|celebrated|protested against|won|trained for|barely survived",
        "the decisive penalty|a 2-1 victory|the semi-final|the longest stage of the tour|an early red card|"
        "the Olympic qualifiers",
        "in the last minute of extra time|on wet grass|under floodlights|at Wembley|in front of a silent crowd",
        "the captain had injured his ankle|the wind changed direction|everyone expected a draw|"
        "the video assistant overruled him|the bench was simply too short",
        "a marathon is won in the weeks before it|the league table never lies for long|"
        "tennis players lose a litre of water an hour|he holds the national record in the high jump",
    ),
    Topic(
        "a backend engineer|the compiler|our database administrator|the open-source maintainer|a script|the browser",
        "crashed on|rewrote|silently ignored|profiled|rolled back|cached",
        "the login service|a malformed JSON file|the payment API|thousands of duplicate records|the nightly build|"
        "an unencrypted backup",
        "on the staging server|in version 4.2|during the migration|inside a Docker container|over a slow connection",
        "a pointer was freed twice|the certificate had expired|memory usage grew by 10 GB an hour|"
        "nobody had written a regression test|the time zone was wrong",
        "a hash table finds a key in constant time|the documentation is out of date|"
        "passwords should never be stored in plain text|the neural network overfits small data sets",
    ),
    Topic(
        "my grandmother|the pastry chef|a street vendor|Luca|the family next door|every good cook",
        "burned|seasoned|served|forgot to defrost|slowly caramelized|shared",
        "a pot of lentil soup|the onions|twelve loaves of rye bread|grilled sardines with lemon|the birthday cake|"
        "leftover risotto",
        "in a cast-iron pan|at a tiny trattoria|on the balcony|over an open fire|for Sunday lunch",
        "the oven was far too hot|guests arrived an hour early|fresh basil was sold out|"
        "someone had mistaken salt for sugar|the recipe came from an old notebook",
        "good olive oil tastes of grass and pepper|pasta water should be as salty as the sea|"
        "the dough must rest overnight in the fridge|vegetarian dishes are marked with a leaf",
    ),
    Topic(
        "a hurricane|the glacier|a family of elephants|the marine biologist|grey wolves|the last rainforest",
        "destroyed|crossed|followed|has been shrinking faster than|protects|avoided",
        "the mangrove coast|a dry riverbed|migrating salmon|any model predicted|hundreds of rare orchids|"
        "the fishing villages",
        "in northern Canada|along the equator|at a depth of 900 metres|since the drought of 1998|after sunset",
        "the ocean is warming|poachers had left traps|food is scarce in winter|the bees had vanished|"
        "the ice breaks up in May",
        "coral reefs shelter a quarter of all sea life|an octopus has three hearts|"
        "the volcano could erupt at any time|plastic waste was found in every sample",
    ),
    Topic(
        "the landlord|a young couple|the city council|our plumber|Mrs. Lindqvist|the removal company",
        "repaired|complained about|painted|finally rented|could not afford|inspected",
        "the leaking roof|a two-bedroom flat|the broken elevator|the kitchen tiles|a garden with old apple trees|"
        "the heating system",
        "on the third floor|near the tram stop|in a quiet suburb|before the winter|without asking anyone",
        "the rent had gone up again|mould grew behind the wardrobe|the neighbours play drums at night|"
        "the contract ended in March|the keys were lost",
        "double glazing keeps out most of the noise|the deposit is three months' rent|"
        "cats are allowed but dogs are not|the basement floods whenever it rains",
    ),
    Topic(
        "the prime minister|a local journalist|the opposition|an independent judge|protesters|Senator Hughes",
        "denied|investigated|voted against|leaked|delayed|publicly defended",
        "the immigration bill|a secret memo|new limits on campaign donations|the trade agreement with Japan|"
        "allegations of fraud|the border closure",
        "in parliament|on live television|in the capital|hours before the election|at the summit in Geneva",
        "turnout was the lowest in decades|the evidence had been destroyed|public opinion had shifted|"
        "the coalition was about to break apart|the court demanded it",
        "the constitution guarantees a fair trial|voters care more about jobs than about slogans|"
        "the embassy will remain closed until further notice|a ceasefire was signed at dawn",
    ),
    Topic(
        "the violinist|a jazz trio|the conductor|Amara|the recording studio|a choir of forty voices",
        "rehearsed|improvised over|cancelled|tuned|composed|has never liked",
        "the slow movement|a concerto in D minor|the final encore|an ancient church organ|a lullaby|the second album",
        "in an empty theatre|at the summer festival|late on Friday night|without sheet music|for the film",
        "the audience would not stop clapping|one string had snapped|the tickets were sold out|"
        "the soprano caught a cold|silence is part of the music",
        "a piano has more than ten thousand parts|the drummer keeps everyone together|"
        "vinyl records are popular again|her voice reminded me of rain",
    ),
    Topic(
        "an astronomer|the space probe|two cosmonauts|the telescope in Chile|a retired physicist|the research group",
        "photographed|calculated|landed on|lost contact with|discovered|measured",
        "the rings of Saturn|a distant supernova|the far side of the moon|a faint radio signal|dark matter|"
        "the orbit of the comet",
        "after seven years of travel|from a mountain top|with a home-made detector|in 1977|at minus 200 degrees",
        "the atmosphere blurs starlight|the batteries were almost empty|the theory predicted otherwise|"
        "nothing travels faster than light|a solar storm was coming",
        "the universe is about 13.8 billion years old|a day on Venus lasts longer than its year|"
        "gravity bends light|the experiment could not be reproduced",
    ),
    Topic(
        "our history teacher|the university library|first-year students|a Dutch archaeologist|the museum|Professor Kim",
        "translated|borrowed|excavated|argued about|catalogued|failed to return",
        "a medieval manuscript|the essay on Rome|bronze coins from the harbour|the causes of the revolution|"
        "three volumes of poetry|clay tablets",
        "in the reading room|under a car park|during the final exam|in the nineteenth century|for the exhibition",
        "the ink had faded|the archive burned down in 1944|every source contradicts the others|"
        "the deadline was extended|funding ran out",
        "the alphabet was borrowed from traders|emperors rarely died of old age|"
        "the lecture starts at a quarter past nine|children learn languages by listening",
    ),
    Topic(
        "the bus driver|a Portuguese airline|cyclists|the night train|my brother-in-law|the harbour pilot",
        "overtook|cancelled|was late for|parked|collided with|waited two hours for",
        "the connecting flight|a tanker full of milk|the ferry to the islands|an electric scooter|"
        "a suitcase without a name|the last gas station",
        "on the motorway|in heavy fog|at platform nine|between Lisbon and Porto|near the roundabout",
        "the signals had failed|a tyre burst at high speed|fuel prices doubled|the road was closed for repairs|"
        "nobody had checked the timetable",
        "seat belts save thousands of lives|the airport is an hour from the centre|"
        "a helmet must be worn at all times|freight moves mostly by sea",
    ),
    Topic(
        "a toddler|the kindergarten|Grandpa Joe|twins|the babysitter|a lonely teenager",
        "laughed at|hid|was afraid of|drew|gave away|kept talking about",
        "a cardboard castle|the neighbour's parrot|an imaginary friend|her favourite blanket|a wobbly tooth|"
        "the loudest toy",
        "under the table|in the back seat|on the first day of school|before bedtime|at the playground",
        "the lights went out|it was snowing|nobody was watching|the story had no ending|she wanted to be brave",
        "babies recognise their mother's voice|a promise is a promise|siblings quarrel about everything|"
        "reading aloud helps more than any app",
    ),
    Topic(
        "a carpenter|the textile factory|a watchmaker in Basel|the trade union|welders|the apprentice",
        "sharpened|assembled|rejected|exported|polished|dropped",
        "an oak table|eighty winter coats|a gearbox with a cracked housing|the new contract|tiny brass screws|"
        "the conveyor belt",
        "in the workshop|on the night shift|by hand|with a laser cutter|at the old shipyard",
        "the wood was still damp|orders from overseas collapsed|a robot does it in half the time|"
        "safety goggles were mandatory|the foreman insisted",
        "steel expands when it is heated|good tools last a lifetime|the warranty covers only parts|"
        "the strike ended without an agreement",
    ),
    Topic(
        "the farmer|a swarm of locusts|goats|the wine grower|seasonal workers|an old shepherd",
        "harvested|trampled|fertilised|ruined|guarded|sold at the market",
        "the barley|forty acres of sunflowers|a field of pumpkins|the vineyard|two hundred lambs|wild mushrooms",
        "in late August|on the terraces|by tractor|beyond the creek|in spite of the frost",
        "the rain never came|soil needs a year to recover|a fox had broken the fence|prices fell|the well ran dry",
        "hens lay fewer eggs in winter|clover brings nitrogen back into the ground|"
        "honey never spoils|the village has one shop and no doctor",
    ),
    Topic(
        "the detective|an anonymous witness|a pickpocket|the insurance company|the locksmith|Inspector Moreau",
        "followed|could not identify|stole|photographed|confessed to|reopened",
        "a red leather wallet|the case of the missing painting|fingerprints on the window|the getaway car|"
        "a forged signature|the wrong suspect",
        "in a crowded subway|at midnight|on the surveillance tape|outside the jewellery shop|in chapter twelve",
        "the alarm was switched off|her alibi fell apart|the knife was never found|the dog did not bark|"
        "the reward was too small",
        "most burglaries happen in daylight|memory is an unreliable witness|"
        "the jury needed less than an hour|the novel ends where it began",
    ),
)

PATTERNS = (
    "{Who} {did} {what}.",
    "{Who} {did} {what} {where}.",
    "{Who} {did} {what} {where} because {why}.",
    "Although {why}, {who} {did} {what} {where}.",
    "{Fact}.",
    "{Fact}, but {who} {did} {what}.",
    "Did you hear that {who} {did} {what}?",
    "Why has nobody noticed that {why}?",
    "{Who} and {who2} met {where}; later one of them {did} {what}, since {why}.",
    "According to a report published yesterday, {who} {did} {what} {where}, although {fact} and {why}.",
    '"{Fact}," said {who} {where}, "and that is why somebody {did} {what}."',
    "When {why}, {who} {did} {what}; {who2}, on the other hand, {did2} {what2} {where}.",
    "{Who} {did} {what} {where} because {why}. {Fact}. In the end {who2} {did2} {what2}, and nobody was surprised.",
    "How to tell whether {fact}: a short guide for those who {did} {what}.",
    "{Where}: {who} {did} {what}",
    "I never understood why {who} {did} {what} {where}, especially when {fact}.",
    "{What}, {what2} and {where}.",
    "It was raining when {who} {did} {what}. {Fact}, so {who2} {did2} {what2} {where}, as if {why} and {fact2}.",
)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _made(topics: tuple[Topic, ...], count: int, seed: int) -> list[str]:
    """Sentences in which each topic and each pattern has the same share; none occurs twice."""
    rng, sentences = random.Random(seed), dict[str, None]()
    while len(sentences) < count:
        topic, pattern = topics[len(sentences) % len(topics)], rng.choice(PATTERNS)
        words = {}
        for field, text in zip(("who", "did", "what", "where", "why", "fact"), topic, strict=True):
            words[field], words[f"{field}2"] = rng.sample(text.split("|"), 2)
        words |= {_capital(field): _capital(text) for field, text in words.items()}
        sentences[pattern.format(**words)] = None
    return list(sentences)


def calibration() -> list[str]:
    return Path(__file__).with_name("calibration.txt").read_text(encoding="utf-8").splitlines()


def evaluation(count: int = 500, seed: int = 0) -> list[str]:
    """Sentences of `seed`: another one makes others."""
    return _made(TOPICS, count, seed)
