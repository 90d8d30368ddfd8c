package nocturne.push

/** Just enough JSON for the tests; an app takes its platform's reader. Objects are maps, null is null. */
class Json private constructor(private val text: String) {
    private var at = 0

    companion object {
        fun parse(text: String): Any? = Json(text).run { value().also { require(peek() == null) { "trailing text" } } }
    }

    private fun value(): Any? = when (val next = peek()) {
        '{' -> members()
        '[' -> elements()
        '"' -> string()
        't' -> word("true", true)
        'f' -> word("false", false)
        'n' -> word("null", null)
        else -> if (next == '-' || next in '0'..'9') number() else error("not JSON at $at")
    }

    private fun members(): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        list('{', '}') {
            require(peek() == '"') { "not a name at $at" }
            val name = string()
            expect(':')
            members[name] = value()
        }
        return members
    }

    private fun elements(): List<Any?> = ArrayList<Any?>().also { list('[', ']') { it.add(value()) } }

    private fun list(open: Char, close: Char, element: () -> Unit) {
        expect(open)
        if (peek() != close) {
            do element() while (peek() == ',' && ++at > 0)
        }
        expect(close)
    }

    private fun string(): String {
        expect('"')
        val string = StringBuilder()
        while (text[at] != '"') {
            val next = text[at++]
            string.append(if (next == '\\') escaped() else next)
        }
        at++
        return string.toString()
    }

    private fun escaped(): Char = when (val next = text[at++]) {
        'b' -> '\b'
        'f' -> '\u000c'
        'n' -> '\n'
        'r' -> '\r'
        't' -> '\t'
        'u' -> text.substring(at, at + 4).toInt(16).toChar().also { at += 4 }
        else -> next
    }

    private fun number(): Number {
        val start = at
        while (at < text.length && text[at] in "+-.eE0123456789") at++
        val number = text.substring(start, at)
        return number.toLongOrNull() ?: number.toDouble()
    }

    private fun <T> word(word: String, value: T): T {
        require(text.startsWith(word, at)) { "not JSON at $at" }
        at += word.length
        return value
    }

    private fun peek(): Char? {
        while (at < text.length && text[at].isWhitespace()) at++
        return text.getOrNull(at)
    }

    private fun expect(char: Char) {
        require(peek() == char) { "no $char at $at" }
        at++
    }
}
