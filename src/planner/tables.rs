//! Parser of `CREATE EXTERNAL TABLE … STORED AS KAFKA|DELTA`.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use crate::error::{Error, Result};
use crate::planner::ast::{Column, ColumnKind, CreateTable, TableKind};
use crate::planner::cursor::Cursor;

#[derive(Default)]
struct TableBody {
    columns: Vec<Column>,
    primary_key: Vec<datafusion::sql::sqlparser::ast::Ident>,
    watermark: Option<(datafusion::sql::sqlparser::ast::Ident, Expr)>,
}

/// Parses from `CREATE` on. The caller has seen that the table is stored as KAFKA or DELTA.
pub(crate) fn parse_create_table(cursor: &mut Cursor<'_>) -> Result<CreateTable> {
    cursor.expect_words(&["CREATE"])?;
    let or_replace = cursor.take_words(&["OR", "REPLACE"]);
    cursor.take_words(&["UNBOUNDED"]);
    cursor.expect_words(&["EXTERNAL", "TABLE"])?;
    let if_not_exists = cursor.take_words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.object_name()?;
    let body = if cursor.take(&Token::LParen) {
        parse_body(cursor)?
    } else {
        TableBody::default()
    };
    let mut kind = None;
    let mut partitioned_by = Vec::new();
    let mut location = None;
    let mut options = Vec::new();
    loop {
        let span = cursor.span();
        if cursor.take_words(&["STORED", "AS"]) {
            kind = Some(match cursor.ident()?.value.to_uppercase().as_str() {
                "KAFKA" => TableKind::Kafka,
                "DELTA" | "DELTATABLE" => TableKind::Delta,
                other => {
                    return Err(Error::invalid(format!("unknown table kind {other}"))
                        .with_help("STORED AS must be KAFKA or DELTA here")
                        .at(span));
                }
            });
        } else if cursor.take_words(&["PARTITIONED", "BY"]) {
            partitioned_by = cursor.ident_list()?;
        } else if cursor.take_words(&["LOCATION"]) {
            location = Some(cursor.text("a location in quotes")?);
        } else if cursor.take_words(&["OPTIONS"]) {
            options = cursor.options()?;
        } else {
            break;
        }
    }
    if cursor.span() != Span::empty() && cursor.parser().peek_token_ref().token != Token::EOF {
        return Err(cursor.expected("STORED AS, PARTITIONED BY, LOCATION, OPTIONS or the end"));
    }
    let Some(kind) = kind else {
        return Err(cursor.expected("STORED AS KAFKA or STORED AS DELTA"));
    };
    let Some(location) = location else {
        return Err(cursor.expected(match kind {
            TableKind::Kafka => "LOCATION 'topic'",
            TableKind::Delta => "LOCATION 'path or URL'",
        }));
    };
    if let (TableKind::Kafka, true, Some(key)) =
        (kind, body.columns.is_empty(), body.primary_key.first())
    {
        return Err(not_a_column(key));
    }
    Ok(CreateTable {
        name,
        or_replace,
        if_not_exists,
        kind,
        columns: body.columns,
        primary_key: body.primary_key,
        watermark: body.watermark,
        partitioned_by,
        location,
        options,
    })
}

fn parse_body(cursor: &mut Cursor<'_>) -> Result<TableBody> {
    let mut body = TableBody::default();
    let mut seen = HashSet::new();
    while !cursor.take(&Token::RParen) {
        let span = cursor.span();
        if cursor.take_words(&["WATERMARK", "FOR"]) {
            let column = cursor.ident()?;
            cursor.expect_words(&["AS"])?;
            let expr = cursor.parse(Parser::parse_expr)?;
            if body.watermark.replace((column, expr)).is_some() {
                return Err(Error::invalid("a table has one WATERMARK").at(span));
            }
        } else if cursor.at_words(&["PRIMARY", "KEY"]) {
            cursor.take_words(&["PRIMARY", "KEY"]);
            body.primary_key = cursor.ident_list()?;
            if !cursor.take_words(&["NOT", "ENFORCED"]) {
                return Err(cursor.expected("NOT ENFORCED").with_help(
                    "a primary key here names the key of upserts; nothing enforces it",
                ));
            }
        } else {
            let column = parse_column(cursor)?;
            if !seen.insert(normalize(&column.name)) {
                return Err(
                    Error::invalid(format!("column {} is declared twice", column.name))
                        .at(column.name.span),
                );
            }
            body.columns.push(column);
        }
        if !cursor.take(&Token::Comma) {
            cursor.expect(&Token::RParen)?;
            break;
        }
    }
    // A list of a PRIMARY KEY alone is about a table that knows its columns.
    for key in &body.primary_key {
        if !body.columns.is_empty() && !seen.contains(&normalize(key)) {
            return Err(not_a_column(key));
        }
    }
    // A list of a WATERMARK alone is about a table that knows its columns.
    if let Some((column, _)) = &body.watermark
        && !seen.is_empty()
        && !seen.contains(&normalize(column))
    {
        return Err(
            Error::invalid(format!("WATERMARK names {column}, which is not a column"))
                .at(column.span),
        );
    }
    Ok(body)
}

/// Error for a column of a PRIMARY KEY that is not declared.
fn not_a_column(key: &datafusion::sql::sqlparser::ast::Ident) -> Error {
    Error::invalid(format!("PRIMARY KEY names {key}, which is not a column")).at(key.span)
}

/// The name as DataFusion resolves it: lower case unless quoted.
pub(crate) fn normalize(ident: &datafusion::sql::sqlparser::ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn parse_column(cursor: &mut Cursor<'_>) -> Result<Column> {
    let name = cursor.ident()?;
    let type_start = cursor.span();
    if matches!(
        cursor.parser().peek_token_ref().token,
        Token::Comma | Token::RParen
    ) {
        return Err(cursor.expected(&format!("a type for column {name}")));
    }
    let sql_type = cursor.parse(Parser::parse_data_type)?;
    let mut column = Column {
        name,
        sql_type,
        type_span: type_start,
        kind: ColumnKind::Physical,
        not_null: false,
        comment: None,
    };
    loop {
        let span = cursor.span();
        if cursor.take_words(&["NOT", "NULL"]) {
            column.not_null = true;
        } else if cursor.take_words(&["NULL"]) {
            column.not_null = false;
        } else if cursor.take_words(&["METADATA"]) {
            let key = if cursor.take_words(&["FROM"]) {
                cursor.text("a metadata key in quotes")?.value
            } else {
                normalize(&column.name)
            };
            column.kind = ColumnKind::Metadata { key, span };
        } else if cursor.take_words(&["GENERATED", "ALWAYS", "AS"]) {
            cursor.expect(&Token::LParen)?;
            let expr = cursor.parse(Parser::parse_expr)?;
            cursor.expect(&Token::RParen)?;
            if cursor.parser().parse_keyword(Keyword::STORED) {
                // Delta stores every generated column: the word changes nothing.
            }
            column.kind = ColumnKind::Generated {
                expr: Box::new(expr),
                span,
            };
        } else if cursor.take_words(&["COMMENT"]) {
            column.comment = Some(cursor.text("a comment in quotes")?.value);
        } else if matches!(
            cursor.parser().peek_token_ref().token,
            Token::Comma | Token::RParen
        ) {
            return Ok(column);
        } else {
            return Err(cursor
                .expected(&format!(
                    "a comma or a column option after column {}",
                    column.name
                ))
                .with_help(
                    "column options are NOT NULL, METADATA [FROM 'key'], \
                     GENERATED ALWAYS AS (expression) and COMMENT 'text'",
                ));
        }
    }
}
