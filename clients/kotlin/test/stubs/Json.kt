package org.json

/** Throws where `text` is no object, as Android's does. */
class JSONObject(private val text: String) {
    fun opt(name: String): Any? = TODO("$name of $text")
}
