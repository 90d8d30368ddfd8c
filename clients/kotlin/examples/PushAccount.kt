// What the two services of this folder have in common: from a push to the room and the event that it is about.
package nocturne.push.example

import nocturne.push.JsonReader
import nocturne.push.Push
import nocturne.push.PushError
import nocturne.push.PushException
import nocturne.push.Receiver
import nocturne.push.SealedNotification
import org.json.JSONObject

/** Android's own JSON reader. */
val androidJson: JsonReader = { text -> JSONObject(text)::opt }

/** One account of the app; what is behind it is the app's. */
interface PushAccount {
    /** Reads pushes with the keys that the account's pusher was registered with. */
    val receiver: Receiver

    /** From the local store: those that the account is joined to or invited to. */
    val roomIds: Iterable<String>

    /**
     * Fetches the event, decrypts it, asks the push rules and shows it.
     *
     * Element X: `pushHandler.handle(PushData(eventId, roomId, unread, clientSecret), …)`, where `clientSecret` is
     * `(notification.data as? JSONObject)?.optString("cs")`. Element Classic: `vectorPushHandler.handle(PushData(…))`.
     */
    fun show(notification: SealedNotification)

    /** Syncs this room, or everything, and shows what is new. */
    fun sync(roomId: String? = null)
}

/** Hands a push of FCM to the account that it is for: nothing in it says which that is. */
fun dispatch(push: Map<String, String>, accounts: List<PushAccount>) {
    for (account in accounts) {
        val about = try {
            account.receiver.read(push, account.roomIds)
        } catch (exception: PushException) {
            if (exception.error == PushError.SEALED) continue // for another account, or for keys that are gone
            break
        }
        when (about) {
            is Push.Sealed -> return account.show(about.notification)
            is Push.Tagged -> if (about.roomId != null) return account.sync(about.roomId)
            is Push.Test -> return // the app's push test: tell the screen that waits for it
            is Push.Wake -> break
        }
    }
    accounts.forEach { it.sync() } // there is something, and no more is known
}

/** Hands over what UnifiedPush's connector opened: its instance says which account it is for. */
fun dispatchOpened(text: String, account: PushAccount) {
    try {
        val about = Receiver.readOpened(text, androidJson)
        if (about is Push.Sealed && about.notification.eventId != null) account.show(about.notification) else account.sync()
    } catch (exception: PushException) {
        account.sync()
    }
}
