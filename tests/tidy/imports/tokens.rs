//! Paths in what `syn` leaves as tokens: the bodies of macros, the arguments of macros and those of attributes.
//!
//! Nobody knows what a macro makes of its tokens, so that each sequence `a::b` counts as a path, and `a::{b, c}` as
//! paths too. A single name counts if it looks like an item: it begins with a capital letter or is called.

use super::How;
use super::reader::Reader;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::ext::IdentExt;

impl Reader<'_> {
    /// Refers to every path in the tokens. In an attribute a string may be a path, and a single name is none.
    pub(super) fn scan(&mut self, tokens: TokenStream, attribute: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Group(group) => self.scan(group.stream(), attribute),
                TokenTree::Ident(_) => at = self.scan_path(&tokens, at - 1, attribute),
                TokenTree::Literal(literal) if attribute => {
                    let text = syn::parse_str::<syn::LitStr>(&literal.to_string());
                    let path = text.ok().and_then(|text| syn::parse_str::<syn::Path>(&text.value()).ok());
                    if let Some(path) = path.filter(|path| path.leading_colon.is_none())
                        && path.segments.len() > 1
                    {
                        let names = path.segments.iter().map(|segment| segment.ident.unraw().to_string());
                        self.refer(names.collect(), literal.span().start().line, How::Path);
                    }
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
        }
    }

    /// Reads the path that begins at an identifier, and tells where it ends.
    fn scan_path(&mut self, tokens: &[TokenTree], start: usize, attribute: bool) -> usize {
        let (mut names, mut at) = (Vec::new(), start);
        let line = tokens[start].span().start().line;
        let mut open = false;
        while let Some(TokenTree::Ident(name)) = tokens.get(at) {
            names.push(name.unraw().to_string());
            at += 1;
            open = is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':');
            if !open {
                break;
            }
            at += 2;
        }
        let follows = |punct: char| start > 0 && is_punct(tokens, start - 1, punct);
        let follows_two = |punct: char| follows(punct) && start > 1 && is_punct(tokens, start - 2, punct);
        let method = follows('.') && !follows_two('.');
        // `$name` is what the caller of the macro gives; what follows `::` is of another crate or of a type.
        if method || follows('\'') || follows_two(':') || (follows('$') && names[0] != "crate") {
            return at;
        }
        match tokens.get(at) {
            Some(TokenTree::Group(group)) if open && group.delimiter() == Delimiter::Brace => {
                self.scan_group(group.stream(), &names);
                return at + 1;
            }
            Some(TokenTree::Punct(star)) if open && star.as_char() == '*' => {
                let seen_in = self.module();
                self.refer(names, line, How::Import { glob: true, seen_in });
                return at + 1;
            }
            _ => {}
        }
        let called = matches!(
            tokens.get(at),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis
        );
        let item = names[0].starts_with(char::is_uppercase) || (called && !self.is_variable(&names[0]));
        if is_punct(tokens, at, '!') && !is_punct(tokens, at + 1, '=') {
            self.refer(names, line, How::Macro);
        } else if names.len() > 1 || (item && !attribute) {
            self.refer(names, line, How::Path);
        }
        at
    }

    /// Reads the group of a `use`: `prefix::{…}`.
    fn scan_group(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for part in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
            let Some(line) = part.first().map(|token| token.span().start().line) else { continue };
            let (mut names, mut glob, mut group) = (prefix.to_vec(), false, None);
            for token in part {
                match token {
                    TokenTree::Ident(name) if name == "as" => break,
                    TokenTree::Ident(name) if name != "self" => names.push(name.unraw().to_string()),
                    TokenTree::Group(inner) => group = Some(inner.stream()),
                    TokenTree::Punct(punct) => glob |= punct.as_char() == '*',
                    TokenTree::Ident(_) | TokenTree::Literal(_) => {}
                }
            }
            if let Some(group) = group {
                self.scan_group(group, &names);
            } else if glob {
                let seen_in = self.module();
                self.refer(names, line, How::Import { glob, seen_in });
            } else {
                self.refer(names, line, How::Path);
            }
        }
    }
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}
