// The keys of the pushers, in a keychain access group that the app and its extension share.

import Foundation
import Security

struct Keychain {
    let accessGroup: String
    private let service = "nocturne push"

    init(accessGroup: String) {
        self.accessGroup = accessGroup
    }

    /// After the first unlock, since a push may come while the device is locked; on this device only, since keys that
    /// wandered to another one by a backup would not fit the pusher that it registers.
    func save(_ stored: Data, account: String) -> Bool {
        SecItemDelete(item(account) as CFDictionary)
        var query = item(account)
        query[kSecValueData] = stored
        query[kSecAttrAccessible] = kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly
        return SecItemAdd(query as CFDictionary, nil) == errSecSuccess
    }

    func remove(account: String) {
        SecItemDelete(item(account) as CFDictionary)
    }

    /// What was saved, by account.
    func accounts() -> [String: Data] {
        var query = item(nil)
        query[kSecMatchLimit] = kSecMatchLimitAll
        query[kSecReturnAttributes] = true
        query[kSecReturnData] = true
        var found: CFTypeRef?
        guard SecItemCopyMatching(query as CFDictionary, &found) == errSecSuccess,
            let items = found as? [[CFString: Any]]
        else { return [:] }
        return items.reduce(into: [:]) { accounts, item in
            if let account = item[kSecAttrAccount] as? String {
                accounts[account] = item[kSecValueData] as? Data
            }
        }
    }

    private func item(_ account: String?) -> [CFString: Any] {
        var item: [CFString: Any] = [
            kSecClass: kSecClassGenericPassword,
            kSecAttrService: service,
            kSecAttrAccessGroup: accessGroup,
        ]
        item[kSecAttrAccount] = account
        return item
    }
}
