package demo

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/testenv"
)

// shopMySQL is shopSQL for MySQL and MariaDB. Statements are parted by lines of "--": a procedure's body holds semicolons.
const shopMySQL = `
create table customers (name varchar(100) primary key, seq bigint not null default 0) engine = InnoDB
--
create table orders (id bigint auto_increment primary key, customer varchar(100) not null, amount decimal(12, 2) not null) engine = InnoDB
--
create table outbox (id char(36) primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null, type varchar(255) not null, payload json) engine = InnoDB
--
create table ledger (id char(36) primary key, ` + "`key`" + ` varchar(100) not null, seq bigint not null, amount decimal(12, 2) not null, index (` + "`key`" + `, seq)) engine = InnoDB
--
create procedure place_order(in who varchar(100), in price decimal(12, 2), in keep boolean)
begin
  declare event char(36) default uuid();
  update customers set seq = seq + 1 where name = who;
  insert into orders (customer, amount) values (who, price);
  insert into outbox (id, aggregatetype, aggregateid, type, payload)
    values (event, 'order', who, 'OrderPlaced', json_object('order', last_insert_id(), 'customer', who, 'amount', price));
  insert into ledger (id, ` + "`key`" + `, seq, amount) select event, name, seq, price from customers where name = who;
  if not keep then
    delete from outbox where id = event;
  end if;
end
`

// customersMax is how many customers a shop has.
const customersMax = 500

// From returns the configuration with another database as the source; its outbox is in that database of the server.
func From(config, source, database string) string {
	if source == SinkPostgres {
		return config
	}
	config = strings.Replace(config, "    postgres: ${env:SHOP_DSN}", "    "+source+": ${env:SHOP_DSN}", 1)
	return strings.Replace(config, "table: public.outbox", "table: "+database+".outbox", 1)
}

// setUpShop makes the shop's tables.
func setUpShop(ctx context.Context, dsn string) error {
	if !isMySQL(dsn) {
		return execute(ctx, dsn, shopSQL)
	}
	db, err := openWarehouse(ctx, dsn)
	if err != nil {
		return err
	}
	defer db.close(ctx)
	for q := range strings.SplitSeq(shopMySQL, "\n--\n") {
		if _, err := db.my.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	names := make([]string, customersMax)
	for i := range names {
		names[i] = fmt.Sprintf("('c%d')", i)
	}
	_, err = db.my.ExecContext(ctx, "insert into customers (name) values "+strings.Join(names, ", "))
	return err
}

// shopCount returns how many events the shop has committed.
func shopCount(ctx context.Context, dsn string) (n int64, err error) {
	db, err := openWarehouse(ctx, dsn)
	if err != nil {
		return 0, err
	}
	defer db.close(ctx)
	err = db.each(ctx, "select count(*) from ledger", func(scan func(...any) error) error { return scan(&n) })
	return n, err
}

// shopTotals returns what each customer's committed orders sum up to.
func shopTotals(ctx context.Context, dsn string) (map[string]string, error) {
	db, err := openWarehouse(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer db.close(ctx)
	q := "select key, sum(amount)::text from ledger group by key"
	if isMySQL(dsn) {
		q = "select `key`, cast(sum(amount) as char(30)) from ledger group by `key`"
	}
	m := map[string]string{}
	err = db.each(ctx, q, func(scan func(...any) error) error {
		var k, v string
		if err := scan(&k, &v); err != nil {
			return err
		}
		m[k] = v
		return nil
	})
	return m, err
}

// order is what a customer orders.
type order struct {
	who, price string
	keep       bool
}

// step is one step of a shop's transaction: an order, or a statement.
type step struct {
	sql   string
	order *order
}

// till is a connection on which orders are placed: one of the two.
type till struct {
	pg   *pgx.Conn
	my   *sql.Conn
	pool *sql.DB
}

func openTill(ctx context.Context, dsn string) (till, error) {
	db, err := openWarehouse(ctx, dsn)
	if err != nil || db.pg != nil {
		return till{pg: db.pg}, err
	}
	c, err := db.my.Conn(ctx)
	if err != nil {
		db.close(ctx)
		return till{}, err
	}
	return till{my: c, pool: db.my}, nil
}

func (t till) close(ctx context.Context) {
	if t.pg != nil {
		_ = t.pg.Close(context.WithoutCancel(ctx)) // nothing is left undone
		return
	}
	_, _ = t.my.Close(), t.pool.Close()
}

// transact sends the steps of one transaction at once.
func (t till) transact(ctx context.Context, steps []step) error {
	if t.pg != nil {
		b := &pgx.Batch{}
		for _, s := range steps {
			if o := s.order; o != nil {
				b.Queue("select place_order($1, $2::text::numeric, $3)", o.who, o.price, o.keep)
				continue
			}
			b.Queue(s.sql)
		}
		if err := t.pg.SendBatch(ctx, b).Close(); err != nil {
			_, undo := t.pg.Exec(ctx, "rollback")
			return errors.Join(err, undo)
		}
		return nil
	}
	texts := make([]string, len(steps))
	for i, s := range steps {
		if texts[i] = s.sql; s.order != nil {
			texts[i] = fmt.Sprintf("call place_order('%s', %s, %t)", s.order.who, s.order.price, s.order.keep)
		}
	}
	for attempt := 0; ; attempt++ {
		_, err := t.my.ExecContext(ctx, strings.Join(texts, "; "))
		if err == nil {
			return nil
		}
		_, undo := t.my.ExecContext(ctx, "rollback")
		// A deadlock's victim begins again, as applications do: nothing of it was committed.
		var refused *mysql.MySQLError
		if !errors.As(err, &refused) || refused.Number != errorDeadlock || undo != nil || attempt == deadlocksMax {
			return errors.Join(err, undo)
		}
	}
}

// Of a deadlock, and how often one transaction may be the victim.
const (
	errorDeadlock = 1213
	deadlocksMax  = 100
)

// startShop starts a throwaway server of the machine's own programs for a source that is no PostgreSQL, and returns the connection string of an empty database.
func startShop(ctx context.Context, source string) (dsn string, closeServer func(), err error) {
	return startMySQL(ctx, testenv.MySQLFlavor(source), "shop")
}
