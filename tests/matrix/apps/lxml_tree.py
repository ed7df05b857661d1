"""lxml: a document for each message."""

from lxml import etree


def handle(value: str) -> str:
    root = etree.fromstring(f"<order><n>{value}</n></order>")
    etree.SubElement(root, "price").text = str(int(root.findtext("n") or 0) * 2)
    return etree.tostring(root).decode()
