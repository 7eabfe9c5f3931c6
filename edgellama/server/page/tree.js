// Messages as a tree: an edited or repeated message is a sibling of the first.

export const childrenOf = (messages, parent) => messages.filter((each) => each.parent === parent);

/** Messages from the first to the shown leaf. */
export function shownPath(conversation) {
  const byId = new Map(conversation.messages.map((each) => [each.id, each]));
  const path = [];
  for (let step = byId.get(conversation.leaf); step; step = byId.get(step.parent)) path.unshift(step);
  return path;
}

/** The leaf below a message: always the latest child. */
export function leafBelow(messages, id) {
  for (;;) {
    const last = childrenOf(messages, id).at(-1);
    if (!last) return id;
    id = last.id;
  }
}

export function asMarkdown(conversation) {
  const parts = shownPath(conversation).map(
    (each) => `## ${each.role === "user" ? "You" : each.details.model || "Assistant"}\n\n${each.content.trim()}\n`,
  );
  return `# ${conversation.title}\n\n${parts.join("\n")}`;
}
