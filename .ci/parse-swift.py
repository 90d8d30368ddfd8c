"""Parses Swift files, where there is no compiler: exit code 1 if one is no Swift."""

import sys

import tree_sitter
import tree_sitter_swift


def errors(node):
    if node.type == "ERROR" or node.is_missing:
        yield node
        return
    for child in node.children:
        yield from errors(child)


parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
found = 0
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        tree = parser.parse(file.read())
    for node in errors(tree.root_node):
        found += 1
        print(f"{path}:{node.start_point[0] + 1}: no Swift", file=sys.stderr)
print(f"files parsed: {len(sys.argv) - 1}")
sys.exit(found > 0)
