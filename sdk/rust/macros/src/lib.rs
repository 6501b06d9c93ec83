//! The attribute macro of `busway-sdk`. Use it from there: `#[busway_sdk::handler]`.
//!
//! It checks the shape of the function first, because a wrong signature found here can be named in one sentence, while
//! the same mistake inside the generated export would be told in terms of code that the author never wrote. Types are
//! left to the compiler: the function is passed where a `fn(Event) -> Result<(), Failure>` is wanted.

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::{quote, quote_spanned};
use syn::{Error, ItemFn, parse_macro_input};

/// Makes a function the plugin's handler: `fn(Event) -> Result<(), Failure>`, once in a crate.
///
/// The function stays as it is, so that tests can call it. In a WebAssembly build it is exported as
/// `busway:plugin/handler`, behind a panic hook that tells the host the message, file and line of a panic.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let checked = if arguments.is_empty() {
        check(&function)
    } else {
        Err(Error::new(Span::call_site(), "`#[handler]` takes no arguments"))
    };
    match checked {
        Ok(()) => export(&function).into(),
        // The function is kept beside the error, so that one mistake doesn't also report every use of the function.
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#function #error).into()
        }
    }
}

fn check(function: &ItemFn) -> Result<(), Error> {
    let signature = &function.sig;
    if let Some(word) = &signature.asyncness {
        return Err(Error::new_spanned(
            word,
            "a handler can't be async: it returns when the event is handled",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(&signature.generics, "a handler can't be generic"));
    }
    if signature.inputs.len() != 1 {
        return Err(Error::new_spanned(
            &signature.ident,
            "a handler takes the event and nothing else: `fn handle(event: Event) -> Result<(), Failure>`",
        ));
    }
    Ok(())
}

fn export(function: &ItemFn) -> proc_macro2::TokenStream {
    let name = &function.sig.ident;
    let call = quote_spanned!(name.span() => ::busway_sdk::__private::handle(#name, event));
    let typed = quote_spanned!(name.span() =>
        const _: fn(::busway_sdk::Event) -> ::core::result::Result<(), ::busway_sdk::Failure> = #name;
    );
    quote! {
        #function

        // A native build has no export: this keeps the function in use there, and its type checked.
        #typed

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Plugin;

            impl ::busway_sdk::__private::Guest for Plugin {
                fn handle(event: ::busway_sdk::Event) -> ::core::result::Result<(), ::busway_sdk::Failure> {
                    #call
                }
            }

            ::busway_sdk::__private::export!(Plugin with_types_in ::busway_sdk::__private);
        };
    }
}
