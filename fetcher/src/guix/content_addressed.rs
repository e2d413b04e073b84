//! The URLs of content-addressed mirrors.
//!
//! A derivation names a file with a Scheme expression that makes a list of procedures, each of which makes a URL of a
//! file's name and hash. Anybody may write such a file, so it is never run as code: this evaluates the few forms that
//! Guix has ever written there, all of them pure, with every resource bounded. What is not among them is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use store_index::digest::Digest;
use store_index::nix32;

use super::datum::{Datum, DatumError};

/// The most evaluations of one expression. Guix's take a few hundred.
const MAX_STEPS: usize = 100_000;

/// The deepest chain of calls, and of lists in lists: each costs some frames of our own stack.
const MAX_DEPTH: usize = 200;

/// The most text that is made in all, in bytes. A URL has a hundred.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// The most mirrors. Guix has four.
const MAX_MIRRORS: usize = 100;

/// The most elements of lists and of arguments in all; each keeps a value alive.
const MAX_ELEMENTS: usize = 10_000;

/// Why an expression gives no URLs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// It cannot be read.
    #[error(transparent)]
    Datum(#[from] DatumError),
    /// Something that is bound to nothing here.
    #[error("'{}' is not among what may be used", .0.escape_debug())]
    Unbound(String),
    /// A form of another shape than its name has.
    #[error("'{0}' does not have the shape that is known here")]
    Shape(&'static str),
    /// A value of another type was wanted.
    #[error("{0} is wanted")]
    Type(&'static str),
    /// Called with other arguments than it takes.
    #[error("a procedure is called with {given} arguments and takes {wanted}")]
    Arity {
        /// How many it takes.
        wanted: usize,
        /// How many there are.
        given: usize,
    },
    /// More than one of the limits allows.
    #[error("it takes more {0} than is allowed")]
    Limit(&'static str),
}

/// Evaluates a list of mirrors and asks each for the URL of a file. A mirror that answers `#f` is left out.
///
/// ```
/// use fetcher::guix::content_addressed::urls;
/// use store_index::digest::Digest;
///
/// let mirrors = br#"(list (lambda (file algo hash)
///     (string-append "https://example.org/" (symbol->string algo) "/" (bytevector->base16-string hash))))"#;
/// let urls = urls(mirrors, "a.tar.gz", &Digest::sha256([0xab; 32])).unwrap();
/// assert_eq!(urls, [format!("https://example.org/sha256/{}", "ab".repeat(32))]);
/// ```
pub fn urls(
    expression: &[u8],
    file_name: &str,
    digest: &Digest,
) -> Result<Vec<String>, EvaluationError> {
    let expression = Datum::parse(expression)?;
    let mut evaluation = Evaluation::new();
    let scope = evaluation.scope(HashMap::new(), None)?;
    let Value::List(mirrors) = evaluation.evaluate(&expression, &scope, 0)? else {
        return Err(EvaluationError::Type("a list of procedures"));
    };
    if mirrors.items.len() > MAX_MIRRORS {
        return Err(EvaluationError::Limit("mirrors"));
    }
    let mut urls = Vec::new();
    for mirror in &mirrors.items {
        let (file, algorithm, hash) = (
            Value::Text(Rc::from(file_name)),
            Value::Symbol(digest.algorithm().name()),
            Value::Bytes(Rc::from(digest.as_bytes())),
        );
        // For some weeks of 2016 they did not take the file's name.
        let args = match mirror {
            Value::Procedure(procedure) if procedure.parameters.len() == 2 => {
                vec![algorithm, hash]
            }
            _ => vec![file, algorithm, hash],
        };
        match evaluation.call(mirror, args, 0)? {
            Value::Text(url) => urls.push(url.to_string()),
            Value::Boolean(false) => {}
            _ => return Err(EvaluationError::Type("a mirror's URL, a string or #f,")),
        }
    }
    Ok(urls)
}

#[derive(Clone)]
enum Value<'e> {
    Text(Rc<str>),
    Symbol(&'e str),
    Bytes(Rc<[u8]>),
    Boolean(bool),
    List(Rc<List<'e>>),
    Procedure(Procedure<'e>),
    Primitive(Primitive),
    /// What a definition or a declaration is worth.
    Nothing,
}

struct List<'e> {
    items: Vec<Value<'e>>,
    /// How many lists are in each other: to free them takes a call each.
    depth: usize,
}

/// What `lambda` makes.
#[derive(Clone)]
struct Procedure<'e> {
    parameters: &'e [Datum],
    body: &'e [Datum],
    scope: Scope<'e>,
}

#[derive(Clone, Copy)]
enum Primitive {
    List,
    StringAppend,
    SymbolToString,
    NixBase32,
    Base16,
    CurrentModule,
    /// `module-autoload!`: all that it could load is here already.
    ModuleAutoload,
}

impl Primitive {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "list" => Self::List,
            "string-append" => Self::StringAppend,
            "symbol->string" => Self::SymbolToString,
            "bytevector->nix-base32-string" => Self::NixBase32,
            "bytevector->base16-string" => Self::Base16,
            "current-module" => Self::CurrentModule,
            "module-autoload!" => Self::ModuleAutoload,
            _ => return None,
        })
    }
}

#[derive(Clone)]
struct Scope<'e>(Rc<Bindings<'e>>);

struct Bindings<'e> {
    own: RefCell<HashMap<&'e str, Value<'e>>>,
    outer: Option<Scope<'e>>,
}

impl<'e> Scope<'e> {
    fn look_up(&self, name: &str) -> Option<Value<'e>> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.0.own.borrow().get(name) {
                return Some(value.clone());
            }
            match &scope.0.outer {
                Some(outer) => scope = outer,
                None => return Primitive::named(name).map(Value::Primitive),
            }
        }
    }

    fn define(&self, name: &'e str, value: Value<'e>) {
        // What was bound before is dropped when the scope is free again.
        let _before: Option<Value<'e>> = self.0.own.borrow_mut().insert(name, value);
    }
}

/// An evaluation: what is still allowed, and every scope that was made. Scopes and procedures refer to each other, in
/// circles too; emptying the scopes in the end frees all, and none from within another.
struct Evaluation<'e> {
    steps: usize,
    text_bytes: usize,
    elements: usize,
    scopes: Vec<Scope<'e>>,
}

impl Drop for Evaluation<'_> {
    fn drop(&mut self) {
        for scope in &self.scopes {
            let bindings = scope.0.own.take();
            drop(bindings);
        }
    }
}

fn take(budget: &mut usize, amount: usize, what: &'static str) -> Result<(), EvaluationError> {
    match budget.checked_sub(amount) {
        Some(rest) => {
            *budget = rest;
            Ok(())
        }
        None => Err(EvaluationError::Limit(what)),
    }
}

impl<'e> Evaluation<'e> {
    const fn new() -> Self {
        Self {
            steps: MAX_STEPS,
            text_bytes: MAX_TEXT_BYTES,
            elements: MAX_ELEMENTS,
            scopes: Vec::new(),
        }
    }

    fn scope(
        &mut self,
        bindings: HashMap<&'e str, Value<'e>>,
        outer: Option<Scope<'e>>,
    ) -> Result<Scope<'e>, EvaluationError> {
        take(&mut self.elements, 1, "memory")?;
        let scope = Scope(Rc::new(Bindings {
            own: RefCell::new(bindings),
            outer,
        }));
        self.scopes.push(scope.clone());
        Ok(scope)
    }

    fn evaluate(
        &mut self,
        datum: &'e Datum,
        scope: &Scope<'e>,
        depth: usize,
    ) -> Result<Value<'e>, EvaluationError> {
        take(&mut self.steps, 1, "steps")?;
        if depth > MAX_DEPTH {
            return Err(EvaluationError::Limit("depth"));
        }
        let form = match datum {
            Datum::String(text) => return self.text(text),
            Datum::Boolean(boolean) => return Ok(Value::Boolean(*boolean)),
            Datum::Symbol(name) => {
                return scope
                    .look_up(name)
                    .ok_or_else(|| EvaluationError::Unbound(name.clone()));
            }
            Datum::List(form) => form,
        };
        let Some((head, rest)) = form.split_first() else {
            return Err(EvaluationError::Type("a procedure"));
        };
        // A name that has been defined anew is no longer the special form.
        let special = head
            .as_symbol()
            .filter(|name| scope.look_up(name).is_none());
        match special {
            Some("begin") => self.sequence(rest, scope, depth),
            Some("use-modules") => Ok(Value::Nothing),
            Some("quote") => match rest {
                [quoted] => self.quote(quoted),
                _ => Err(EvaluationError::Shape("quote")),
            },
            Some("lambda") => match rest {
                [Datum::List(parameters), body @ ..] => {
                    procedure("lambda", parameters, body, scope)
                }
                _ => Err(EvaluationError::Shape("lambda")),
            },
            Some("define") => {
                let (name, value) = match rest {
                    [Datum::Symbol(name), value] => (name, self.evaluate(value, scope, depth + 1)?),
                    [Datum::List(signature), body @ ..] => match signature.split_first() {
                        Some((Datum::Symbol(name), parameters)) => {
                            (name, procedure("define", parameters, body, scope)?)
                        }
                        _ => return Err(EvaluationError::Shape("define")),
                    },
                    _ => return Err(EvaluationError::Shape("define")),
                };
                take(&mut self.elements, 1, "memory")?;
                scope.define(name, value);
                Ok(Value::Nothing)
            }
            _ => {
                let procedure = self.evaluate(head, scope, depth + 1)?;
                let args = rest
                    .iter()
                    .map(|arg| self.evaluate(arg, scope, depth + 1))
                    .collect::<Result<Vec<_>, _>>()?;
                self.call(&procedure, args, depth)
            }
        }
    }

    fn sequence(
        &mut self,
        body: &'e [Datum],
        scope: &Scope<'e>,
        depth: usize,
    ) -> Result<Value<'e>, EvaluationError> {
        let mut value = Value::Nothing;
        for datum in body {
            value = self.evaluate(datum, scope, depth + 1)?;
        }
        Ok(value)
    }

    fn quote(&mut self, datum: &'e Datum) -> Result<Value<'e>, EvaluationError> {
        match datum {
            Datum::String(text) => self.text(text),
            Datum::Symbol(name) => Ok(Value::Symbol(name)),
            Datum::Boolean(boolean) => Ok(Value::Boolean(*boolean)),
            Datum::List(list) => {
                take(&mut self.elements, list.len(), "memory")?;
                let items = list.iter().map(|datum| self.quote(datum));
                let items = items.collect::<Result<_, _>>()?;
                new_list(items)
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<Value<'e>, EvaluationError> {
        take(&mut self.text_bytes, text.len(), "memory")?;
        Ok(Value::Text(Rc::from(text)))
    }

    fn call(
        &mut self,
        procedure: &Value<'e>,
        args: Vec<Value<'e>>,
        depth: usize,
    ) -> Result<Value<'e>, EvaluationError> {
        take(&mut self.elements, args.len(), "memory")?;
        match procedure {
            Value::Procedure(procedure) => {
                let (wanted, given) = (procedure.parameters.len(), args.len());
                if wanted != given {
                    return Err(EvaluationError::Arity { wanted, given });
                }
                let names = procedure.parameters.iter().filter_map(Datum::as_symbol);
                let bindings = names.zip(args).collect();
                let scope = self.scope(bindings, Some(procedure.scope.clone()))?;
                self.sequence(procedure.body, &scope, depth + 1)
            }
            Value::Primitive(primitive) => self.call_primitive(*primitive, args),
            _ => Err(EvaluationError::Type("a procedure")),
        }
    }

    fn call_primitive(
        &mut self,
        primitive: Primitive,
        args: Vec<Value<'e>>,
    ) -> Result<Value<'e>, EvaluationError> {
        match (primitive, args.as_slice()) {
            (Primitive::List, _) => new_list(args),
            (Primitive::StringAppend, parts) => {
                let mut joined = String::new();
                for part in parts {
                    let Value::Text(part) = part else {
                        return Err(EvaluationError::Type("a string"));
                    };
                    take(&mut self.text_bytes, part.len(), "memory")?;
                    joined.push_str(part);
                }
                Ok(Value::Text(Rc::from(joined)))
            }
            (Primitive::SymbolToString, [Value::Symbol(name)]) => self.text(name),
            (Primitive::SymbolToString, [_]) => Err(EvaluationError::Type("a symbol")),
            (Primitive::NixBase32, [Value::Bytes(bytes)]) => self.text(&nix32::encode(bytes)),
            (Primitive::Base16, [Value::Bytes(bytes)]) => self.text(&hex::encode(bytes)),
            (Primitive::NixBase32 | Primitive::Base16, [_]) => {
                Err(EvaluationError::Type("a bytevector"))
            }
            (Primitive::CurrentModule, []) | (Primitive::ModuleAutoload, [_, _, _]) => {
                Ok(Value::Nothing)
            }
            (primitive, args) => Err(EvaluationError::Arity {
                wanted: match primitive {
                    Primitive::CurrentModule => 0,
                    Primitive::ModuleAutoload => 3,
                    _ => 1,
                },
                given: args.len(),
            }),
        }
    }
}

fn procedure<'e>(
    form: &'static str,
    parameters: &'e [Datum],
    body: &'e [Datum],
    scope: &Scope<'e>,
) -> Result<Value<'e>, EvaluationError> {
    let are_names = parameters.iter().all(|name| name.as_symbol().is_some());
    if body.is_empty() || !are_names {
        return Err(EvaluationError::Shape(form));
    }
    Ok(Value::Procedure(Procedure {
        parameters,
        body,
        scope: scope.clone(),
    }))
}

fn new_list(items: Vec<Value<'_>>) -> Result<Value<'_>, EvaluationError> {
    let depths = items.iter().map(|item| match item {
        Value::List(list) => list.depth,
        _ => 0,
    });
    let depth = 1 + depths.max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(EvaluationError::Limit("depth"));
    }
    Ok(Value::List(Rc::new(List { items, depth })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: [u8; 32] = [0x1f; 32];

    fn evaluate(expression: &str) -> Result<Vec<String>, EvaluationError> {
        urls(expression.as_bytes(), "a-1.0.tar.gz", &Digest::sha256(HASH))
    }

    /// The list of 2021 until now, as Guix prints it; the shapes of the years before are contained in the next ones.
    const NOW: &str = r#"(begin (use-modules (guix base32)) (define (guix-publish host) (lambda (file algo hash)
        (string-append "https://" host "/file/" file "/" (symbol->string algo) "/" (bytevector->nix-base32-string hash))))
        (module-autoload! (current-module) (quote (guix base16)) (quote (bytevector->base16-string)))
        (list (guix-publish "bordeaux.example") (guix-publish "ci.example")
        (lambda (file algo hash) (string-append "https://tarballs.example/" (symbol->string algo) "/" (bytevector->nix-base32-string hash)))
        (lambda (file algo hash) (string-append "https://archive.example/api/1/content/" (symbol->string algo) ":" (bytevector->base16-string hash) "/raw/"))))"#;

    #[test]
    fn all_shapes_that_guix_ever_wrote() {
        let (base16, base32) = (hex::encode(HASH), nix32::encode(&HASH));
        assert_eq!(
            evaluate(NOW).unwrap(),
            [
                format!("https://bordeaux.example/file/a-1.0.tar.gz/sha256/{base32}"),
                format!("https://ci.example/file/a-1.0.tar.gz/sha256/{base32}"),
                format!("https://tarballs.example/sha256/{base32}"),
                format!("https://archive.example/api/1/content/sha256:{base16}/raw/"),
            ]
        );
        let weeks_of_2016 = r#"(list (lambda (algo hash) (string-append "http://t/" (symbol->string algo) "/" (bytevector->nix-base32-string hash))))"#;
        assert_eq!(
            evaluate(weeks_of_2016).unwrap(),
            [format!("http://t/sha256/{base32}")]
        );
        let of_2018 = r#"(begin (use-modules (guix base32) (guix base16)) (list (lambda (file algo hash) (string-append "https://b/" file)) (lambda (file algo hash) #f)))"#;
        assert_eq!(evaluate(of_2018).unwrap(), ["https://b/a-1.0.tar.gz"]);
        for none in ["(quote ())", "'()", "(list)"] {
            assert_eq!(evaluate(none).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let unbound = |name: &str| Err(EvaluationError::Unbound(name.to_owned()));
        for (expression, expected) in [
            ("(system \"id\")", unbound("system")),
            (
                "(list (lambda (f a h) (open-input-file \"/etc/shadow\")))",
                unbound("open-input-file"),
            ),
            ("(eval (quote a) (current-module))", unbound("eval")),
            ("(list lambda)", unbound("lambda")),
            ("(load \"x\")", unbound("load")),
            ("\"a\"", Err(EvaluationError::Type("a list of procedures"))),
            ("()", Err(EvaluationError::Type("a procedure"))),
            ("(\"a\" \"b\")", Err(EvaluationError::Type("a procedure"))),
            (
                "(list \"https://h/\")",
                Err(EvaluationError::Type("a procedure")),
            ),
            (
                "(list (lambda (f a h) a))",
                Err(EvaluationError::Type("a mirror's URL, a string or #f,")),
            ),
            (
                "(list (lambda (f a h) (string-append f a)))",
                Err(EvaluationError::Type("a string")),
            ),
            (
                "(list (lambda (f a h) (bytevector->base16-string f)))",
                Err(EvaluationError::Type("a bytevector")),
            ),
            (
                "(list (lambda (f) f))",
                Err(EvaluationError::Arity {
                    wanted: 1,
                    given: 3,
                }),
            ),
            ("(list (lambda f f))", Err(EvaluationError::Shape("lambda"))),
            ("(lambda (f))", Err(EvaluationError::Shape("lambda"))),
            ("(define)", Err(EvaluationError::Shape("define"))),
            ("(quote a b)", Err(EvaluationError::Shape("quote"))),
        ] {
            assert_eq!(evaluate(expression), expected, "{expression}");
        }
        assert!(matches!(
            evaluate("(list #.(system \"id\"))"),
            Err(EvaluationError::Datum(_))
        ));
    }

    #[test]
    fn names_are_bound_where_they_are_seen() {
        let shadowed = r#"(begin (define list string-append) (define (twice file) (list file file))
            ((lambda (list) list) (quote ())))"#;
        assert_eq!(evaluate(shadowed).unwrap(), [""; 0]);
        let own_define = r#"(begin (define base "https://a/") (list (lambda (file algo hash) (define base "https://b/") (string-append base file))))"#;
        assert_eq!(evaluate(own_define).unwrap(), ["https://b/a-1.0.tar.gz"]);
    }

    #[test]
    fn resources_are_bounded() {
        let endless = "(begin (define (f x) (f x)) (list (lambda (a b c) (f a))))";
        assert_eq!(evaluate(endless), Err(EvaluationError::Limit("depth")));
        let wide = format!(
            "(begin (define (f x) {}) (define (g x) {}) (define (h x) {}) (h \"\"))",
            "x ".repeat(1000),
            "(f x) ".repeat(200),
            "(g x) ".repeat(100)
        );
        assert_eq!(evaluate(&wide), Err(EvaluationError::Limit("steps")));
        let mut doubling = "\"0123456789\"".to_owned();
        for _ in 0..30 {
            doubling = format!("((lambda (x) (string-append x x)) {doubling})");
        }
        assert_eq!(evaluate(&doubling), Err(EvaluationError::Limit("memory")));
        let many = format!("(list {})", "guix ".repeat(MAX_ELEMENTS + 1));
        assert!(evaluate(&many.replace("guix", "list")).is_err());
        let mirrors = format!("(list {})", "list ".repeat(MAX_MIRRORS + 1));
        assert_eq!(evaluate(&mirrors), Err(EvaluationError::Limit("mirrors")));
        let nested = format!(
            "(begin (define a (list)) {})",
            "(define a (list a))".repeat(5000)
        );
        assert_eq!(evaluate(&nested), Err(EvaluationError::Limit("depth")));
        // Each holds the one before: to free them from within each other would take all of the stack.
        let chain = format!(
            "(begin (define a (list)) (define (keep x) (lambda () x)) {} (list))",
            "(define a (keep a))".repeat(3000)
        );
        assert_eq!(evaluate(&chain).unwrap(), [""; 0]);
        let calls = format!("(begin (define (f) f) {})", "(f)".repeat(MAX_ELEMENTS));
        assert_eq!(evaluate(&calls), Err(EvaluationError::Limit("memory")));
    }

    proptest! {
        #[test]
        fn nothing_panics(parts in proptest::collection::vec(prop_oneof![
            Just("("), Just(")"), Just("'"), Just("\"a\""), Just("x"), Just("#f"), Just("list"), Just("lambda"),
            Just("define"), Just("begin"), Just("quote"), Just("string-append"), Just("symbol->string"),
            Just("(lambda (x y z)"), Just("(define (x)"), Just("(list"),
        ], 0..40)) {
            drop(evaluate(&parts.join(" ")));
        }
    }
}
