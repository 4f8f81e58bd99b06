// Map what a recognizer writes in place of listed terms back to the terms.
// The rules are those of apply_aliases.py; alias_vectors.json has results to test with.
//
//   struct Table: Decodable { let aliases: [String: String] }
//   let table = try JSONDecoder().decode(Table.self, from: Data(contentsOf: url))
//   applyAliases("Is a craiffish's shell hard?", table.aliases)

import Foundation

private let letters = "[\\p{L}\\p{M}\\p{N}]"
private let between = "\\s\\-‐‑–—"
private let wordPattern = "\(letters)(?:[^\(between)]*\(letters))?"

func applyAliases(_ text: String, _ aliases: [String: String]) -> String {
    let source = text as NSString
    let most = aliases.keys.map { $0.split(separator: " ").count }.max() ?? 0
    guard most > 0, let expression = try? NSRegularExpression(pattern: wordPattern) else { return text }
    let words = expression.matches(in: text, range: NSRange(location: 0, length: source.length))
        .map { $0.range }

    func gap(_ index: Int) -> String {
        let start = NSMaxRange(words[index - 1])
        return source.substring(with: NSRange(location: start, length: words[index].location - start))
    }

    func match(_ index: Int, _ count: Int) -> (end: Int, term: String)? {
        for next in (index + 1)..<(index + count)
        where gap(next).range(of: "^[\(between)]+$", options: .regularExpression) == nil {
            return nil
        }
        let keys = words[index..<(index + count)].map { source.substring(with: $0).lowercased() }
        let alias = keys.joined(separator: " ")
        let end = NSMaxRange(words[index + count - 1])
        if let term = aliases[alias] { return (end, term) }
        guard alias.hasSuffix("'s") || alias.hasSuffix("’s") else { return nil }
        return aliases[String(alias.dropLast(2))].map { (end - 2, $0) }
    }

    var result = ""
    var position = 0
    var index = 0
    while index < words.count {
        var length = min(most, words.count - index)
        var replacement: (end: Int, term: String)?
        while length > 0 {
            replacement = match(index, length)
            if replacement != nil { break }
            length -= 1
        }
        guard let (end, term) = replacement else {
            index += 1
            continue
        }
        let before = index > 0 ? gap(index) : "."
        let startsSentence = before.range(of: "[.!?…。！？]", options: .regularExpression) != nil
        let needsCapital = startsSentence && term == term.lowercased()
        let start = words[index].location
        result += source.substring(with: NSRange(location: position, length: start - position))
        result += needsCapital ? term.prefix(1).uppercased() + term.dropFirst() : term
        position = end
        index += length
    }
    return result + source.substring(from: position)
}
