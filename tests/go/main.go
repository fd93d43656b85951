// Go programs as clients of a server: database/sql and the Flight SQL client of arrow-go. Prints the server's answers.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	_ "github.com/apache/arrow-go/v18/arrow/flight/flightsql/driver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	address := os.Args[1]
	withDatabaseSQL(address)
	withClient(address)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func withDatabaseSQL(address string) {
	db := must(sql.Open("flightsql", "flightsql://admin:admin-pw@"+address+"?timeout=600s"))
	defer db.Close()
	var one int64
	var text string
	var at time.Time
	row := db.QueryRow("SELECT 1, 'x', TIMESTAMP '2025-01-02T03:04:05.000006Z'")
	if err := row.Scan(&one, &text, &at); err != nil {
		panic(err)
	}
	fmt.Println(one, text, at.UTC())
	must(db.Exec("CREATE EXTERNAL TABLE people (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION 'people'"))
	done := must(db.Exec("INSERT INTO people VALUES (1, 'a'), (2, 'b')"))
	fmt.Println(must(done.RowsAffected()))
	insert := must(db.Prepare("INSERT INTO people VALUES (?, ?)"))
	fmt.Println(must(must(insert.Exec(int64(3), "it's")).RowsAffected()))
	var id int64
	if err := db.QueryRow("SELECT id FROM people WHERE name = ?", "it's").Scan(&id); err != nil {
		panic(err)
	}
	fmt.Println(id)
	rows := must(db.Query("SELECT value FROM generate_series(1, 100000)"))
	count := 0
	for rows.Next() {
		count++
	}
	fmt.Println(count, rows.Err())
	for _, wrong := range []string{"SELECT * FROM nowhere", "SELEC", "SELECT 1 / 0"} {
		rows, err := db.Query(wrong)
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
		}
		fmt.Println(short(err))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	begun := time.Now()
	slow := "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11"
	var n int64
	err := db.QueryRowContext(ctx, slow).Scan(&n)
	fmt.Println("ended:", err != nil, time.Since(begun) < time.Minute)
	closed := must(sql.Open("flightsql", "flightsql://admin:wrong@"+address+"?timeout=600s"))
	_, err = closed.Query("SELECT 1")
	fmt.Println(short(err))
}

var codes = regexp.MustCompile(`code = (\w+) desc = ([^;]*)`)

func short(err error) string {
	if err == nil {
		return "no error"
	}
	if found := codes.FindStringSubmatch(err.Error()); found != nil {
		return found[1] + ": " + found[2]
	}
	return err.Error()
}

func withClient(address string) {
	ctx := context.Background()
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	client := must(flightsql.NewClient(address, nil, nil, plain))
	defer client.Close()
	ctx = must(client.Client.AuthenticateBasicToken(ctx, "admin", "admin-pw"))
	info := must(client.Execute(ctx, "SELECT id, name FROM people ORDER BY id"))
	read(ctx, client, info)
	pattern := "peop%"
	read(ctx, client, must(client.GetTables(ctx, &flightsql.GetTablesOpts{TableNameFilterPattern: &pattern})))
	read(ctx, client, must(client.GetTableTypes(ctx)))
	fmt.Println(must(client.ExecuteUpdate(ctx, "INSERT INTO people VALUES (4, 'd')")))
	types := must(client.GetXdbcTypeInfo(ctx, nil))
	reader := must(client.DoGet(ctx, types.Endpoint[0].Ticket))
	for reader.Next() {
		fmt.Println(reader.RecordBatch().Column(0))
	}
	reader.Release()
	info = must(client.Execute(ctx, "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11"))
	result := must(client.CancelFlightInfo(ctx, &flight.CancelFlightInfoRequest{Info: info}))
	fmt.Println(result.Status)
	reader, err := client.DoGet(ctx, info.Endpoint[0].Ticket)
	if err == nil {
		for reader.Next() {
		}
		err = reader.Err()
	}
	fmt.Println(short(err))
}

func read(ctx context.Context, client *flightsql.Client, info *flight.FlightInfo) {
	reader := must(client.DoGet(ctx, info.Endpoint[0].Ticket))
	defer reader.Release()
	for reader.Next() {
		record := reader.RecordBatch()
		for i, column := range record.Columns() {
			fmt.Print(record.ColumnName(i), " ", column, " ")
		}
		fmt.Println()
	}
	if reader.Err() != nil {
		panic(reader.Err())
	}
}
