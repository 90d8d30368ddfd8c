/** A device's keys as the vectors have them, as this package takes them. */
export function deviceKeys({ secret, private_key: privateKey, p256dh, auth }) {
  return {
    ...(secret === undefined ? {} : { secret }),
    ...(p256dh === undefined ? {} : { blob: { privateKey, p256dh, auth } }),
  };
}

/** What `understand` gives, in the vectors' words. */
export function inWords({ roomId, eventId, ...about }) {
  const withNull = about.kind === "tags";
  return {
    ...about,
    ...(roomId !== undefined || withNull ? { room_id: roomId ?? null } : {}),
    ...(eventId !== undefined || withNull ? { event_id: eventId ?? null } : {}),
  };
}
