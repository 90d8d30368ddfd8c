package org.unifiedpush.android.connector

import org.unifiedpush.android.connector.data.PushEndpoint
import org.unifiedpush.android.connector.data.PushMessage

enum class FailedReason { INTERNAL_ERROR }

abstract class PushService {
    abstract fun onNewEndpoint(endpoint: PushEndpoint, instance: String)
    abstract fun onMessage(message: PushMessage, instance: String)
    abstract fun onRegistrationFailed(reason: FailedReason, instance: String)
    abstract fun onUnregistered(instance: String)
}
