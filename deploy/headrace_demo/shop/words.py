"""The words that names and values are made of: common, single, capitalised, so that a small model can copy them. Data only."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = _words(
    """
    Paris London Berlin Madrid Rome Vienna Dublin Oslo Lisbon Athens Prague Warsaw Boston Chicago Denver Austin Dallas
    Miami Seattle Toronto Sydney Tokyo Delhi Cairo Geneva Zurich Hamburg Munich Lyon Milan Naples Turin Porto Seville
    Bergen Helsinki
    """
)
PEOPLE = _words(
    """
    Alice Bruno Clara David Emma Felix Grace Henry Irene James Karen Laura Maria Nina Oscar Peter Rosa Simon Teresa
    Victor Wendy Adam Bella Carl Diana Eric Fiona George Hanna Ivan Julia Kevin Linda Martin Nora Oliver Paula Robert
    Sarah Thomas Anton Betty Conrad Doris Edgar Flora Gavin Helen Isaac Joanna Louis Monica Nelson Olga Philip Rachel
    Samuel Tina Walter Yvonne
    """
)
PRODUCTS_OF = {
    "Kitchen": ["Kettle", "Toaster", "Blender", "Mixer", "Teapot", "Skillet", "Spoon", "Knife", "Plate", "Bowl", "Cup"],
    "Garden": ["Shovel", "Rake", "Bucket", "Hose", "Planter", "Bench", "Ladder", "Hammer", "Basket"],
    "Office": ["Pencil", "Marker", "Folder", "Stapler", "Notebook", "Printer", "Scanner", "Keyboard", "Monitor", "Ruler"],
    "Sports": ["Racket", "Helmet", "Glove", "Whistle", "Bottle", "Skate", "Paddle", "Jersey", "Dumbbell"],
    "Music": ["Guitar", "Violin", "Drum", "Piano", "Flute", "Speaker", "Trumpet", "Banjo", "Harp"],
    "Travel": ["Tent", "Compass", "Backpack", "Suitcase", "Wallet", "Umbrella", "Jacket", "Camera", "Pillow"],
    "Toys": ["Puzzle", "Robot", "Kite", "Doll", "Train", "Castle", "Globe", "Marble", "Rocket"],
    "Lighting": ["Lamp", "Lantern", "Candle", "Torch", "Mirror", "Spotlight", "Bulb", "Chandelier", "Dimmer"],
}
PRODUCTS = tuple(word for group in PRODUCTS_OF.values() for word in group)
CATEGORIES = tuple(PRODUCTS_OF)
CARRIERS = ("Falcon", "Swift", "Express", "Courier", "Pigeon", "Arrow", "Comet", "Cargo")
SEGMENTS = ("Retail", "Business", "School", "Clinic")
STATUSES = ("Pending", "Paid", "Shipped", "Returned", "Cancelled")
CHANNELS = ("Web", "Store", "Phone", "Partner")
YEARS = (2021, 2022, 2023, 2024)

# What the base's corpus is made of, besides the words above: other things, other properties, other labels.
NOUNS = _words(
    """
    driver student teacher doctor patient player member author artist singer pilot farmer worker tenant guest visitor
    company school clinic museum library station factory hotel farm bank garage studio theater harbor book movie song
    course lesson ticket contract invoice payment booking meeting project report survey flight trip match game machine
    engine sensor device vehicle tractor boat parcel letter recipe dish sample test
    """
)
SHOP_NOUNS = ("customer", "product", "order", "item", "shipment")
TEXT_COLUMNS = _words(
    """
    region country color brand type grade state level language owner topic style source group team shape mood
    """
)
SHOP_TEXT_COLUMNS = ("city", "segment", "category", "status", "channel", "carrier")
NUMBER_COLUMNS = _words(
    """
    weight score size length age height speed capacity rating budget cost hours points volume width pages
    """
)
SHOP_NUMBER_COLUMNS = ("price", "quantity", "days", "year")
LABELS = _words(
    """
    Red Green Blue Yellow Silver Golden North South East West Spring Summer Autumn Winter Small Medium Large Fast Slow
    Early Late Fresh Local Global Simple Double Single Royal Public Private Urban Rural Modern Classic Active Closed
    Open Alpha Beta Gamma Delta Omega Tiger Eagle Lion Wolf Maple Cedar River Ocean Forest Desert Island Valley Summit
    Bridge Monday Tuesday Friday Sunday January March April June Copper Iron Granite Velvet Cotton Linen Paper Crystal
    """
)
