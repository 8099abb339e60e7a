"""Makes what preflight reads instead of its originals: files of tables, and a `tokenizer.json`."""

from . import command, tables, tokenizer
from . import plan as plans


def main(convert_json):
    def need(value, name, kind):
        return plans.need(value, name, kind, convert_json)

    def work():
        value = plans.read_json(convert_json)
        made = {"runUid": need(need(value, "run", dict), "uid", str)}
        places = [(need(table, "table", str), need(table, "to", str)) for table in need(value, "tables", list)]
        if places:
            cluster = need(value, "clusterId", str)
            made["tables"] = [tables.copy(table, cluster, target) for table, target in places]
        if value.get("tokenizer"):
            wanted = need(value, "tokenizer", dict)
            target = need(wanted, "to", str).rstrip("/")
            made["tokenizer"] = {"to": target, "made": tokenizer.make(need(wanted, "from", str), wanted.get("revision"), target)}
        return made

    return command.run("convert", work)
