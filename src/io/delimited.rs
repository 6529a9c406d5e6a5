//! Lines of fields with commas, semicolons or tabs between.

/// The fields of one line. One that begins with a quote, after blanks, reaches to the next; two quotes in it are one
/// (RFC 4180). Blanks around fields are kept.
pub(super) fn fields(line: &str, separator: char) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            _ if character == separator && !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(character),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_separators_and_themselves() {
        assert_eq!(fields("a,b,,c", ','), ["a", "b", "", "c"]);
        assert_eq!(fields("", ','), [""]);
        assert_eq!(fields(" \"a;b\" ;c", ';'), ["a;b ", "c"]);
        assert_eq!(fields("\"say \"\"a\"\"\"\tb", '\t'), ["say \"a\"", "b"]);
        // Not at the beginning: a quote like any other letter.
        assert_eq!(fields("5\" disc,2", ','), ["5\" disc", "2"]);
        assert_eq!(fields("\"open,2", ','), ["open,2"]);
    }
}
