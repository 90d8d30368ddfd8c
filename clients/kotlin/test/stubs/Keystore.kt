package android.security.keystore

import java.security.spec.AlgorithmParameterSpec

object KeyProperties {
    const val PURPOSE_ENCRYPT = 1
    const val PURPOSE_DECRYPT = 2
    const val BLOCK_MODE_GCM = "GCM"
    const val ENCRYPTION_PADDING_NONE = "NoPadding"
}

abstract class KeyGenParameterSpec : AlgorithmParameterSpec {
    class Builder(val alias: String, val purposes: Int) {
        fun setBlockModes(vararg modes: String): Builder = if (modes.isEmpty()) TODO() else this
        fun setEncryptionPaddings(vararg paddings: String): Builder = if (paddings.isEmpty()) TODO() else this
        fun build(): KeyGenParameterSpec = TODO()
    }
}
