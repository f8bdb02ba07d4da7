"""The products of the catalogue: the same everywhere, each of its own, and believable in what can be counted."""

import hashlib
import json
import re
from collections import Counter
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path

import pytest

from local.catalogue import CatalogueDataError, Product, concept_of, products
from local.catalogue.material import load

# Changes with every change of the material. It was the same on Python 3.11, 3.12 and 3.13.
DIGEST = "ddd80c05524904e3"

CATEGORY_FILE = """
[category]
code = "TST"
name = "Test"
brands = ["A", "B", "C", "D", "E", "F"]
details = ["One.", "Two."]

[looks]
colour = ["Red", "Blue"]

[concepts.thing]
name = "Thing"
use = "A thing."
need = "For those who need one."
also = "It does what it does."
price = [1, 2]
grams = [1, 2]
text = ["This is a thing.", "That is a thing."]
kinds = [["Small", "Short."], ["Medium", "Middling."], ["Large", "Long."]]
"""


@pytest.fixture(scope="module")
def catalogue() -> list[Product]:
    return list(products())


def sentences(product: Product) -> list[str]:
    return re.split(r"(?<=[.!?]) ", product.description)


def test_there_are_5000_products_in_33_categories(catalogue: list[Product]) -> None:
    sizes = Counter(product.category for product in catalogue)
    assert sum(sizes.values()) == 5000
    assert len(sizes) == 33
    assert min(sizes.values()) >= 140, f"a category is thin: {sizes.most_common()[-1]}"


def test_the_same_rows_and_seed_make_the_same_products_on_every_python(catalogue: list[Product]) -> None:
    rows = [
        [p.sku, p.name, p.description, p.category, str(p.price), dict(sorted(p.attributes.items()))] for p in catalogue
    ]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == DIGEST


def test_fewer_rows_are_the_beginning_of_more(catalogue: list[Product]) -> None:
    assert list(products(300)) == catalogue[:300]
    assert list(products(0)) == []


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows is -1; a catalogue has 0 rows or more"):
        products(-1)


def test_another_seed_makes_another_catalogue(catalogue: list[Product]) -> None:
    other = list(products(5000, seed=2))
    assert other != catalogue
    assert {concept_of(p) for p in other} == {concept_of(p) for p in catalogue}


def test_any_beginning_is_as_varied_as_it_can_be(catalogue: list[Product]) -> None:
    concepts = sum(len(file.concepts) for file in load().values())
    for start in range(0, 5000 - concepts, concepts):
        assert len({concept_of(p) for p in catalogue[start : start + concepts]}) == concepts


def test_no_two_products_share_a_sku_or_a_name_and_description() -> None:
    skus, texts = set[str](), set[tuple[str, str]]()
    for product in products(200_000):
        skus.add(product.sku)
        texts.add((product.name, product.description))
    assert len(skus) == 200_000
    assert len(texts) == 200_000


def test_no_two_of_the_first_products_share_a_description(catalogue: list[Product]) -> None:
    assert len({p.description for p in catalogue}) == 5000


def test_products_are_not_a_template_with_other_nouns(catalogue: list[Product]) -> None:
    uses = Counter(sentence for product in catalogue for sentence in sentences(product))
    assert len(uses) >= 5500, "fewer sentences than products"
    sentence, most = uses.most_common(1)[0]
    assert most <= 50, f"in more than 1 % of the products: {sentence}"
    openings = Counter(" ".join(product.description.split()[:3]) for product in catalogue)
    assert openings.most_common(1)[0][1] <= 50, openings.most_common(1)


def test_no_two_concepts_share_a_sentence() -> None:
    told = Counter(
        sentence
        for file in load().values()
        for concept in file.concepts.values()
        for sentence in (concept.use, concept.need, concept.also, *concept.text, *(text for _, text in concept.kinds))
    )
    assert [sentence for sentence, times in told.items() if times > 1] == []


def test_descriptions_have_a_length_that_people_read(catalogue: list[Product]) -> None:
    lengths = [len(product.description.split()) for product in catalogue]
    assert min(lengths) >= 20
    assert max(lengths) <= 56
    assert 35 <= sum(lengths) / len(lengths) <= 42


def test_texts_are_whole_sentences(catalogue: list[Product]) -> None:
    broken = [
        product.description
        for product in catalogue
        if not re.fullmatch(r"[A-Z0-9].*[.!?]", product.description)
        or re.search(r"  | [.,;]|\.\.|\{|\}", product.description + product.name)
    ]
    assert broken == []


def test_prices_and_weights_stay_where_their_concept_has_them(catalogue: list[Product]) -> None:
    concepts = {key: concept for file in load().values() for key, concept in file.concepts.items()}
    for product in catalogue:
        concept = concepts[concept_of(product)]
        assert min(concept.price) * 0.88 <= product.price <= Decimal(max(concept.price)) * Decimal("1.12"), product
        assert product.price.as_tuple().exponent == -2
        grams = product.attributes["weight_g"]
        assert isinstance(grams, int)
        assert min(concept.grams) * 0.9 <= grams <= max(concept.grams) * 1.1, product


def test_a_larger_pack_weighs_and_costs_more(catalogue: list[Product]) -> None:
    packs = ["125 g", "250 g", "500 g", "1 kg"]
    beans = {p.attributes["pack"]: p for p in islice(products(50_000), 50_000) if concept_of(p) == "espresso-beans"}
    for smaller, larger in pairwise(packs):
        assert beans[smaller].price < beans[larger].price
        assert int(beans[smaller].attributes["weight_g"]) < int(beans[larger].attributes["weight_g"])


def test_the_name_tells_what_the_attributes_tell(catalogue: list[Product]) -> None:
    for product in catalogue:
        variant = product.attributes.get("variant")
        assert variant is None or str(variant) in product.name
        assert product.category == "Books" or product.name.startswith(str(product.attributes["brand"]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ('code = "TST"', "", "missing required field `code`"),
        ("price = [1, 2]", "price = [0, 2]", r"thing has price \[0.0, 2.0\]; give lowest and highest"),
        ("price = [1, 2]", "price = [1, 2, 3, 4]", "or one value above 0 for each of its 3 kinds"),
        ("price = [1, 2]", 'price = [1, 2]\nlook = "size"', r"look 'size'; \[looks\] must define it"),
        ("price = [1, 2]", 'price = [1, 2]\nmore = ["cloth"]', r"more \['cloth'\]; \[more_details\] must define it"),
        ('"B", "C", "D", "E", "F"', '"B", "C"', "3 brands; name 4 or more"),
        (', ["Large", "Long."]', "", "2 kinds; write 3 or more"),
        ('code = "TST"', 'code = "TST"\ngraded = ["size"]', r"graded names \['size'\]"),
        ("[concepts.thing]", "[concepts.thing", "tst.toml: "),
    ],
)
def test_a_data_file_that_breaks_a_rule_is_named_with_the_rule(
    tmp_path: Path, old: str, new: str, message: str | None
) -> None:
    (tmp_path / "tst.toml").write_text(CATEGORY_FILE.replace(old, new) if old else CATEGORY_FILE)
    if message is None:
        assert list(load(tmp_path)) == ["TST"]
    else:
        with pytest.raises(CatalogueDataError, match=message):
            load(tmp_path)


def test_two_files_may_not_share_a_code_or_a_concept(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(CATEGORY_FILE)
    (tmp_path / "b.toml").write_text(CATEGORY_FILE)
    with pytest.raises(CatalogueDataError, match=r"b\.toml: code 'TST' is taken"):
        load(tmp_path)
    (tmp_path / "b.toml").write_text(CATEGORY_FILE.replace("TST", "TSU"))
    load.cache_clear()
    with pytest.raises(CatalogueDataError, match=r"b\.toml: concepts \['thing'\] exist already"):
        load(tmp_path)
