// What the examples use of Android, so that they can be compiled without it.
package android.content

import java.io.File

abstract class Context {
    abstract val noBackupFilesDir: File
}
