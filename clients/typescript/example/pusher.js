// Subscribes to pushes, and tells the homeserver where to send them.

/** `vapidKey`: the gateway's public key, base64url. */
export async function subscribe(vapidKey) {
  const options = { scope: "./", type: "module" };
  await navigator.serviceWorker.register("service-worker.js", options);
  const { pushManager } = await navigator.serviceWorker.ready;
  return pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: vapidKey });
}

/** The body of `POST /_matrix/client/v3/pushers/set`. */
export function pusher(subscription, appId, gateway) {
  const { endpoint, keys } = subscription.toJSON();
  return {
    kind: "http",
    app_id: appId,
    pushkey: keys.p256dh,
    app_display_name: "Example",
    device_display_name: "A browser",
    lang: "en",
    append: true, // another account in this browser has the same pushkey
    data: {
      url: new URL("/_matrix/push/v1/notify", gateway).href,
      endpoint,
      auth: keys.auth,
      events_only: true,
    },
  };
}
